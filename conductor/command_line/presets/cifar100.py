"""python study.py --trials 100 --preset cifar100

A pair from the literature with a large gap: resnet32x4 teaches resnet8x4 on CIFAR-100. For a GPU.
The augmentation is TrivialAugment's for CIFAR (Müller and Hutter 2021, 2103.10158), in place of the
crop and flip of most papers on distillation.
"""

PROTOCOL = {
    "dataset": "cifar100",
    "image_size": 32,
    "augment": "crop=4,flip,trivial,cutout=16",
    "teachers": ("resnet32x4",),
    "teacher_epochs": 100,
    "students": ("resnet8x4",),
    "epochs": 40,
    "confirm_epochs": 120,
}
