"""Images as PIL's, ready in memory, with torchvision's transforms: the usual input of a loop."""

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from kd.data.examples import Examples
from kd.names import parse_augment


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images that are augmented, turned into tensors and normalised as they are asked for."""

    def __init__(self, data: Examples, augment: str) -> None:
        arrays = data.values.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.pictures = [Image.fromarray(array) for array in arrays]
        self.labels = data.labels.tolist()
        size = data.values.shape[-1]
        parts = dict(parse_augment(augment, size))
        self.transform = transforms.Compose(
            [
                *([transforms.RandomCrop(size, parts["crop"])] if "crop" in parts else []),
                *([transforms.RandomHorizontalFlip()] if "flip" in parts else []),
                transforms.ToTensor(),
                transforms.Normalize(data.inputs.mean, data.inputs.deviation),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]
