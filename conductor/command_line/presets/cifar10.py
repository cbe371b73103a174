"""python study.py --trials 100 --preset cifar10

ResNet50, pretrained on ImageNet and fine-tuned, teaches ResNet18 on CIFAR-10,
both with the CIFAR stem; 45,000 training and 5,000 validation images. For a GPU: 100 trials of
up to 30 epochs per arm, and 10 GB of teacher cache. The augmentation is TrivialAugment's for CIFAR
(Müller and Hutter 2021, 2103.10158): distillation has to beat a strong recipe without it.
"""

PROTOCOL = {
    "dataset": "cifar10",
    "image_size": 32,
    "augment": "crop=4,flip,trivial,cutout=16",
    "teachers": ("resnet50",),
    "teacher_weights": ("pretrained",),
    "teacher_epochs": 30,
    "teacher_lr": 0.02,
    "students": ("resnet18",),
    "epochs": 30,
    "confirm_epochs": 100,
}
