"""python study.py --trials 30 --preset timm --dataset folder:PATH

A pretrained pair of timm on your own images: resnet50 at 224 pixels teaches mobilenetv3_large_100
at 160, both fine-tuned from their ImageNet weights with AdamW. Needs the extra `timm`. For a GPU.
The augmentation is that of torchvision's recipes of 2021 without mixing, and 160 pixels for
training follow ResNet strikes back (Wightman et al. 2021, 2110.00476, A3).
"""

PROTOCOL = {
    "image_size": 160,
    "teacher_size": 224,
    "augment": "resized-crop=0.35,flip,trivial,erase=0.1",
    "teachers": ("timm:resnet50",),
    "teacher_weights": ("pretrained",),
    "teacher_epochs": 10,
    "teacher_optimizer": "adamw",
    "students": ("timm:mobilenetv3_large_100",),
    "student_weights": "pretrained",
    "epochs": 15,
    "confirm_epochs": 30,
    "batch_size": 64,
    "optimizer": "adamw",
    "clip": 1.0,
    "ema": 0.999,
}
