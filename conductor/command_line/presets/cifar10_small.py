"""python study.py --trials 20 --preset cifar10-small --arms scheduled,constant,plain --ablate

4,000 training images of CIFAR-10 at 16 pixels, for a CPU: half an hour on two cores. Crop and flip
alone, as in airbench94 (Jordan 2024, 2404.00498), whose trainings are as short.
"""

PROTOCOL = {
    "dataset": "cifar10",
    "image_size": 16,
    "train_size": 4000,
    "augment": "crop=2,flip",
    "teachers": ("resnet20",),
    "teacher_epochs": 30,
    "students": ("resnet8-w0.5",),
    "epochs": 15,
    "batch_size": 64,
}
