"""Images as PIL's, ready in memory, with torchvision's transforms: the usual input of a loop."""

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from kd.data.views import Augmentation
from kd.training.evaluation import LabelledImages

AS_IT_IS = Augmentation(padding=0, flip=False, cutout=0)


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images that are augmented, turned into tensors and normalised as they are asked for."""

    def __init__(self, data: LabelledImages, augmentation: Augmentation) -> None:
        arrays = data.images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.pictures = [Image.fromarray(array) for array in arrays]
        self.labels = data.labels.tolist()
        size, padding = data.images.shape[-1], augmentation.padding
        self.transform = transforms.Compose(
            [
                *([transforms.RandomCrop(size, padding=padding)] if padding else []),
                *([transforms.RandomHorizontalFlip()] if augmentation.flip else []),
                transforms.ToTensor(),
                transforms.Normalize(data.mean.tolist(), data.deviation.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]
