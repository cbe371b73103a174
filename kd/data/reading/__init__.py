"""What sources share: files, arrays, names of splits, and images on their way into a data set."""
