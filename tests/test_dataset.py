"""`Dataset`: what it refuses, what it gives a DataLoader, and its fingerprint."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from eyebright.data import Dataset
from eyebright.errors import DataError
from eyebright.images import fit

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 10, 12, 3), dtype=np.uint8)
LABELS = [0, 1, 2, 0, 1, 0]
CLASSES = ["ant", "bee", "cat"]


def make(**changes: object) -> Dataset:
    return Dataset(**{"images": PIXELS, "labels": LABELS, "classes": CLASSES} | changes)


@pytest.mark.parametrize(
    "images",
    [
        PIXELS.astype(np.float32),
        PIXELS.astype(np.int64),
        PIXELS[..., 0],
        PIXELS[0],
        PIXELS.transpose(0, 3, 1, 2),
        PIXELS[..., :1],
    ],
    ids=["float", "int64", "grey", "one", "NCHW", "one channel"],
)
def test_images_must_be_uint8_nhwc(images: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint8 of shape \(n, height, width, 3\)"):
        make(images=images)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0, 1, 2], "one integer label a picture"),
        ([0, 1, 2, 0, 1, 0, 0], "one integer label a picture"),
        ([], "one integer label a picture"),
        ([[0]] * 6, "one integer label a picture"),
        ([0.0, 1.0, 2.0, 0.0, 1.0, 0.0], "one integer label a picture"),
        (["0"] * 6, "one integer label a picture"),
        ([0, 1, 2, 0, 1, 3], "outside 0 to 2"),
        ([0, 1, 2, 0, 1, -1], "outside 0 to 2"),
    ],
)
def test_labels_must_fit(labels: list[object], why: str) -> None:
    with pytest.raises(DataError, match=why):
        make(labels=labels)


def test_ids_must_be_one_a_picture() -> None:
    with pytest.raises(DataError, match="2 ids for 6 pictures"):
        make(ids=["a", "b"])
    assert make().ids == [0, 1, 2, 3, 4, 5]
    assert make(ids="abcdef").ids == list("abcdef")


def test_the_message_names_the_data() -> None:
    with pytest.raises(DataError, match=r"^insects: "):
        make(name="insects", labels=[9] * 6)


def test_a_picture_is_what_to_tensor_gives() -> None:
    data = make()
    pixels, label = data[4]
    assert (pixels.dtype, pixels.shape, label) == (torch.float32, (3, 10, 12), 1)
    assert isinstance(label, int)
    assert np.array_equal((pixels * 255).round().byte().permute(1, 2, 0).numpy(), PIXELS[4])
    pixels.zero_()  # a picture of one's own, not a window on the data
    assert np.array_equal(data.images, PIXELS)
    with pytest.raises(IndexError):
        data[6]


def test_a_data_loader_works_on_it() -> None:
    batches = list(DataLoader(make(), batch_size=4))
    assert [tuple(pixels.shape) for pixels, _ in batches] == [(4, 3, 10, 12), (2, 3, 10, 12)]
    assert torch.cat([labels for _, labels in batches]).tolist() == LABELS
    shuffled = DataLoader(
        make(), batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    ((pixels, labels),) = shuffled
    assert sorted(labels.tolist()) == sorted(LABELS)
    assert 0 <= pixels.min() < 0.1 < 0.9 < pixels.max() <= 1


def test_counts_length_and_size() -> None:
    data = make()
    assert len(data) == 6
    assert data.counts().tolist() == [3, 2, 1]
    assert make(classes=[*CLASSES, "dog"]).counts().tolist() == [3, 2, 1, 0]
    assert data.imgsz == 10
    assert "6 pictures, 12×10 px, 3 classes" in repr(data)
    assert data.sizes.tolist() == [[12, 10]] * 6
    assert data.modes == ["RGB"] * 6
    assert data.classes == ("ant", "bee", "cat")


def test_the_same_data_have_the_same_fingerprint() -> None:
    fingerprint = make().fingerprint
    assert len(fingerprint) == 64
    backwards = np.ascontiguousarray(PIXELS[:, :, ::-1])[:, :, ::-1]
    for same in (
        make(images=PIXELS.copy()),
        make(images=np.asfortranarray(PIXELS)),
        make(images=backwards),
        make(labels=np.array(LABELS, np.int32)),
        make(labels=np.array(LABELS, ">i8")),
        make(ids=list("abcdef"), name="other", source="elsewhere"),
    ):
        assert same.fingerprint == fingerprint


def test_one_pixel_or_label_changes_the_fingerprint() -> None:
    changed = PIXELS.copy()
    changed[5, 9, 11, 2] ^= 1
    order = [1, 0, 2, 3, 4, 5]
    others = [
        make(),
        make(images=changed),
        make(labels=[0, 1, 2, 0, 1, 1]),
        make(images=PIXELS.reshape(6, 12, 10, 3)),
        make(images=PIXELS[order], labels=np.array(LABELS)[order]),
        make(images=PIXELS[:5], labels=LABELS[:5]),
    ]
    assert len({data.fingerprint for data in others}) == len(others)


@pytest.mark.parametrize(
    "positions", [[4, 1], (4, 1), np.array([4, 1]), np.array([-2, 1], np.int32)]
)
def test_subset_takes_everything_along(positions: object) -> None:
    sizes = np.arange(12).reshape(6, 2)
    data = make(ids=list("abcdef"), name="insects", sizes=sizes, modes=["L", "P", *["RGB"] * 4])
    part = data.subset(positions)
    assert np.array_equal(part.images, PIXELS[[4, 1]])
    assert part.labels.tolist() == [1, 1]
    assert part.ids == ["e", "b"]
    assert part.modes == ["RGB", "P"]
    assert part.sizes.tolist() == [[8, 9], [2, 3]]
    assert (part.classes, part.name, part.val) == (data.classes, "insects", None)
    assert data.subset(positions, "few").name == "few"


def test_subset_by_a_mask_and_of_nothing() -> None:
    mask = np.array(LABELS) == 0
    assert make().subset(mask).ids == [0, 3, 5]
    assert len(make().subset([])) == 0
    with pytest.raises(IndexError):
        make().subset([6])


def test_resized_by_the_policy() -> None:
    val = make(images=PIXELS[:2], labels=[0, 1])
    data = make(ids=list("abcdef"), name="insects", source="there", val=val, modes=["L"] * 6)
    small = data.resized(8)
    assert small.images.shape == (6, 8, 8, 3)
    assert all(np.array_equal(s, fit(p, 8)) for s, p in zip(small.images, PIXELS, strict=True))
    assert small.val is not None
    assert small.val.images.shape == (2, 8, 8, 3)
    assert (small.ids, small.name, small.source) == (data.ids, "insects", "there")
    assert small.sizes.tolist() == [[12, 10]] * 6, "the sizes before resizing"
    assert small.modes == ["L"] * 6
    assert data.images.shape == (6, 10, 12, 3)
    assert small.resized(8) is small
