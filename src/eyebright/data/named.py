"""Small data sets by name: digits, CIFAR-100, MNIST and Fashion-MNIST, downloaded if need be."""

import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eyebright.console import notices, shown
from eyebright.data.archives import unpack
from eyebright.data.cache import data_home, download_archive, download_files
from eyebright.data.cifar import parse_batch, read_limited
from eyebright.data.dataset import Dataset
from eyebright.data.splits import stratified_split
from eyebright.errors import DataError

CIFAR100_CLASSES = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()
)
CIFAR100 = "cifar-100-python"
CIFAR100_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
CIFAR100_URLS = ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
CIFAR100_ROWS = {"train": 50_000, "test": 10_000}
CIFAR100_FILE_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}
ADDRESSES = {
    "mnist": [
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ],
    "fashion-mnist": [
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ],
}
FILE_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
MNIST_CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
        "Ankle boot",
    ),
}  # fmt: skip
LARGEST = 256 << 20  # bytes of a file; the largest published one has 155 million
NAMES = ("digits", "cifar100", *ADDRESSES)


def load_named(name: str, split: str) -> Dataset:
    """One of `NAMES` from the folder of data sets, downloaded if need be.

    Args:
        name: of the data set.
        split: ``train`` or ``test``; ids count in official order.

    Raises:
        DataError: a file that lies there is missing, cut short, or holds something else.
        StorageError: neither there nor to be had.
    """
    if name == "digits":
        return _load_digits(split)
    if name == "cifar100":
        return _load_cifar100(split)
    return _load_mnist(name, split)


def _load_digits(split: str) -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8×8 px, after Alpaydin & Kaynak 1998).

    They come without parts of their own: a fifth, always the same, is the test part.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, 0.2, seed=0)
    data = Dataset(images, labels, MNIST_CLASSES["mnist"], name="digits", mirrors=False)
    data = data.subset(test if split == "test" else train)
    data.source, data.modes = "digits", ["L"] * len(data)
    return data


def _load_cifar100(split: str) -> Dataset:
    folder, archive = data_home() / CIFAR100, data_home() / f"{CIFAR100}.tar.gz"
    if not folder.exists():
        if archive.exists():
            folder = unpack(archive, any_files=True) / CIFAR100
        else:
            folder = download_archive(CIFAR100_URLS, CIFAR100_MD5, CIFAR100)
    path = folder / split
    content = read_limited(path, LARGEST, "CIFAR-100")
    _compare({path: content}, {split: CIFAR100_FILE_MD5[split]})
    images, labels = parse_batch(
        content,
        shown(path),
        rows=CIFAR100_ROWS[split],
        key="fine_labels",
        classes=len(CIFAR100_CLASSES),
        kind="CIFAR-100",
    )
    return Dataset(images, labels, CIFAR100_CLASSES, name="cifar100", source="cifar100")


def _load_mnist(name: str, split: str) -> Dataset:
    folder = data_home() / name
    if not folder.exists():
        folder = download_files(ADDRESSES[name], FILE_MD5[name], name)
    begin = "train" if split == "train" else "t10k"
    paths = [folder / f"{begin}-{what}-ubyte.gz" for what in ("images-idx3", "labels-idx1")]
    contents = {path: read_limited(path, LARGEST, name) for path in paths}
    _compare(contents, FILE_MD5[name])
    pixels, labels = (parse_idx(contents[path], shown(path)) for path in paths)
    if pixels.ndim != 3 or pixels.shape[1:] != (28, 28) or not len(pixels):
        raise DataError(f"{shown(paths[0])}: not pictures of 28×28 px")
    if labels.shape != (len(pixels),) or labels.max() >= len(MNIST_CLASSES[name]):
        raise DataError(f"{shown(paths[1])}: not {len(pixels):,} labels from 0 to 9")
    data = Dataset(
        np.repeat(pixels[..., None], 3, axis=3),
        labels.astype(np.int64),
        MNIST_CLASSES[name],
        name=name,
        source=name,
        mirrors=name != "mnist",
    )
    data.modes = ["L"] * len(data)
    return data


def _compare(contents: dict[Path, bytes], published: dict[str, str]) -> None:
    for path, content in contents.items():
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != published[path.name]:
            notices.warning(
                "%s: its checksum is not the published one; used if it is whole", shown(path)
            )


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """An array of bytes in LeCun's format idx, compressed with gzip.

    Args:
        content: the bytes of the file.
        name: what to call it when it is refused.

    Raises:
        DataError: damaged, cut short, or no bytes.
    """
    try:
        decoder = zlib.decompressobj(wbits=31)  # 31: gzip, with its checksum
        idx = decoder.decompress(content, LARGEST)
        whole = decoder.eof
    except zlib.error as error:
        raise DataError(f"{name}: damaged ({shown(error)})") from None
    dimensions = idx[3] if idx[:3] == b"\0\0\x08" and len(idx) > 3 else 0
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(idx[i : i + 4], "big") for i in range(4, start, 4)]
    if not whole or not 1 <= dimensions <= 3 or len(idx) != start + math.prod(shape):
        raise DataError(f"{name}: no array of bytes in idx format, or one that is cut short")
    return np.frombuffer(idx, np.uint8, offset=start).reshape(shape)
