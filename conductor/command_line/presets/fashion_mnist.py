"""python study.py --trials 50 --preset fashion-mnist

Grey images of clothes at 28x28: resnet20 teaches a resnet8 of half the width. For a GPU, or for a
night on a CPU with a small --train-size.
"""

PROTOCOL = {
    "dataset": "fashion-mnist",
    "image_size": 28,
    "augment": "crop=2,flip",
    "teachers": ("resnet20",),
    "teacher_epochs": 30,
    "students": ("resnet8-w0.5",),
    "epochs": 20,
}
