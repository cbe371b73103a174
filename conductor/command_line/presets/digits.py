"""python study.py --trials 20

8x8 digits that come with scikit-learn, at 16x16: minutes on two cores, without a download.
The student is small enough to be clearly worse than its teacher.
"""

PROTOCOL = {
    "dataset": "digits",
    "image_size": 16,
    "validation_fraction": 0.25,
    "test_fraction": 0.25,
    "augment": "crop=1",
    "teachers": ("resnet20",),
    "teacher_epochs": 12,
    "students": ("resnet8-w0.125",),
    "epochs": 12,
    "batch_size": 64,
}
