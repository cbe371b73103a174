"""python study.py --trials 20 --dataset folder:PATH

Images of your own, in one folder a class (with train/, val/ and test/ above, or without, and then
split), at 32x32. Other sizes and models by their flags.
"""

PROTOCOL = {
    "image_size": 32,
    "validation_fraction": 0.15,
    "teacher": "resnet20",
    "teacher_epochs": 20,
    "students": ("resnet8-w0.25",),
    "epochs": 15,
    "batch_size": 64,
}
