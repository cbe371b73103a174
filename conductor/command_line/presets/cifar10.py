"""python study.py --trials 100 --preset cifar10

ResNet50, pretrained on ImageNet and fine-tuned, teaches ResNet18 on CIFAR-10,
both with the CIFAR stem; 45,000 training and 5,000 validation images. For a GPU: 100 trials of
up to 30 epochs per arm, and 10 GB of teacher cache.
"""

PROTOCOL = {
    "dataset": "cifar10",
    "image_size": 32,
    "teacher": "resnet50",
    "teacher_weights": "pretrained",
    "teacher_epochs": 30,
    "teacher_lr": 0.02,
    "students": ("resnet18",),
    "epochs": 30,
    "confirm_epochs": 100,
}
