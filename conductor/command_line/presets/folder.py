"""python study.py --trials 20 --dataset folder:PATH

Your own images at 32x32, one folder per class; without train/, val/ and test/ above the classes,
they are split. Flags set other sizes and models.
"""

PROTOCOL = {
    "image_size": 32,
    "validation_fraction": 0.15,
    "teachers": ("resnet20",),
    "teacher_epochs": 20,
    "students": ("resnet8-w0.25",),
    "epochs": 15,
    "batch_size": 64,
}
