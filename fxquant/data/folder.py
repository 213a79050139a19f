"""Image folders: which images calibrate a model, which ones measure it, and how they become batches."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from timm.data.readers.class_map import load_class_map
from timm.utils.misc import natural_key

from fxquant.data.formats import IMG_EXTENSIONS, count_left_out, describe_left_out, is_image
from fxquant.data.walk_files import leads_back, walk_files
from fxquant.errors import InputError, expect_path, expect_whole

TRAIN = "train"
EVALUATION = ("val", "validation", "test")


@dataclass(frozen=True)
class Samples:
    """Image files below `root` with their class indices."""

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def take(self, positions: Sequence[int]) -> Samples:
        """Return the samples at `positions`, in that order."""
        return Samples(self.root, tuple(self.files[i] for i in positions), tuple(self.labels[i] for i in positions))

    def names(self) -> list[str]:
        """Return the files' paths relative to `root`, with forward slashes."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


@dataclass(frozen=True)
class ImageTree:
    """
    What a folder offers. `shared` says that both parts are the same files, so that a draw has to keep them apart.

    classes: folder names, one per class index. notes: what a reader should know about how the folder was understood.
    """

    calibration: Samples
    evaluation: Samples
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Say whether calibration and evaluation images come from the same files."""
        return self.calibration.root == self.evaluation.root


def read_image_tree(folder: str | Path, class_map: str | Path | None = None, labelled: bool = True) -> ImageTree:
    """
    Find the images of an ImageFolder tree: ``train`` and ``val`` (or ``validation``, ``test``), or class folders alone.

    A class is a folder, with images at any depth below it; folders without images keep their index. Indices follow timm's
    order of folder names, in which 2 comes before 10, unless `class_map` names a text file with one folder name per line.
    Where only one of the two parts exists, it serves both purposes. Images are the files that end in one of `IMG_EXTENSIONS`;
    the notes count all others by ending. Links are followed, but not back to a folder that holds them. labelled: False takes a
    folder of images without class folders, too, as one that has no classes.

    Raises `InputError` naming the folder where it is missing, unreadable, or has no class folders or no images.
    """
    root = expect_path(folder)
    if not root.exists():
        raise InputError(f"image folder {str(root)!r} does not exist")
    if not root.is_dir():
        raise InputError(f"expected a folder of images, {str(root)!r} is a file")
    if not labelled and class_map is None and not _subfolders(root):
        return _unlabelled(root)
    calibration, evaluation = _part_roots(root)
    names = [_class_folders(part) for part in dict.fromkeys((calibration, evaluation))]
    found = sorted(set().union(*names), key=natural_key)
    indices = _read_class_map(class_map, found) if class_map else {name: i for i, name in enumerate(found)}
    parts = {part: _read_samples(part, indices) for part in dict.fromkeys((calibration, evaluation))}
    classes = tuple(sorted(indices, key=indices.__getitem__))
    left_out = sum((counts for _, counts in parts.values()), Counter[str]())
    notes = tuple(_notes(found, names, bool(class_map), left_out))
    return ImageTree(parts[calibration][0], parts[evaluation][0], classes, notes)


def _unlabelled(root: Path) -> ImageTree:
    """Return the images that lie in a folder itself, whose label is 0 because there is none."""
    files = sorted((Path(e.path) for e in os.scandir(root) if e.is_file() and is_image(e.name)), key=_natural)
    if not files:
        raise InputError(
            f"expected images ({' '.join(IMG_EXTENSIONS)}), or class folders of them, in {str(root)!r}, found none"
        )
    samples = Samples(root, tuple(files), (0,) * len(files))
    return ImageTree(samples, samples, (), ("there are no class folders: the images have no labels",))


def _natural(file: Path) -> list[int | str]:
    key: list[int | str] = natural_key(str(file))
    return key


def read_class_names(class_map: str | Path) -> tuple[str, ...]:
    """Return the names in a class map by index; raise `InputError` for what is none."""
    indices = _read_class_map(class_map, ())
    return tuple(sorted(indices, key=indices.__getitem__))


def check_classes(tree: ImageTree, num_classes: int, mapped: bool = False) -> None:
    """
    Refuse a folder whose classes cannot be those of a model with `num_classes` outputs.

    mapped: the folder's names were given indices by a class map, so that it may hold a part of the classes.
    """
    found = len(tree.classes)
    if found == num_classes or (mapped and found < num_classes):
        return
    some = ", ".join(tree.classes[:3]) + (", ..." if found > 3 else "")
    source = "the class map" if mapped else f"{str(tree.evaluation.root)!r}"
    raise InputError(
        f"{source} has {found} classes ({some}), the model has num_classes {num_classes}: indices would not match and the "
        f"accuracy would mean nothing. Give --num-classes {found} with a checkpoint of that many classes, --class-map FILE "
        "(the model's class folder names, one per line) for a part of its classes, or the folder the model was trained on"
    )


def index_classes_by(tree: ImageTree, names: Sequence[str]) -> ImageTree:
    """
    Return the tree with the indices that its classes have in `names`, those of a model; it may hold a part of them.

    Raises `InputError` where a folder is called by another name, or `names` has one twice.
    """
    indices = {name: index for index, name in enumerate(names)}
    unknown = [name for name in tree.classes if name not in indices]
    if unknown or len(indices) < len(names):
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        wrong = f"no class {unknown[0]!r}" if unknown else "two classes of one name"
        raise InputError(
            f"expected class folders by the model's class names ({some}), which has {wrong}: rename the folders of "
            f"{str(tree.evaluation.root)!r}, or give --class-map FILE with their names by index"
        )

    def relabelled(samples: Samples) -> Samples:
        return replace(samples, labels=tuple(indices[tree.classes[label]] for label in samples.labels))

    return replace(
        tree, calibration=relabelled(tree.calibration), evaluation=relabelled(tree.evaluation), classes=tuple(names)
    )


def draw_images(tree: ImageTree, calibration: int, limit: int | None = None, seed: int = 0) -> tuple[Samples, Samples]:
    """
    Draw the images to calibrate with and those to evaluate on; the same arguments give the same images in the same order.

    calibration: how many, drawn at random with the classes taking turns; 0 where they come from elsewhere. limit: how many to
    evaluate on, drawn at random from all classes; None is all of them. Where the tree is `shared` no image serves both
    purposes.

    Raises `InputError` where the folder holds fewer images than asked for.
    """
    expect_whole("calibration", calibration, -(2**63))
    expect_whole("seed", seed, 0, 2**32 - 1)
    held = len(tree.calibration)
    spare = 1 if tree.shared else 0
    if not 0 <= calibration <= held - spare:
        kept = ", one of which has to be left to evaluate on" if spare else ""
        raise InputError(
            f"--calib asks for {calibration} images, {str(tree.calibration.root)!r} holds {held}{kept}: "
            f"give a number from 1 to {held - spare}"
        )
    # RandomState's stream is frozen by NumPy (NEP 19), so a seed means the same images with any version.
    chosen = _take_turns(tree.calibration.labels, np.random.RandomState(seed))[:calibration]
    taken = set(chosen) if tree.shared else set()
    rest = [i for i in range(len(tree.evaluation)) if i not in taken]
    if limit is not None and limit < len(rest):
        drawn = np.random.RandomState(seed).permutation(len(rest))[:limit]
        rest = [rest[i] for i in sorted(drawn.tolist())]
    return tree.calibration.take(chosen), tree.evaluation.take(rest)


def _part_roots(root: Path) -> tuple[Path, Path]:
    """Return the folders of calibration and evaluation images, which may be one."""
    # A class may be called "train" too: only a folder of folders is a part.
    parts = {name: root / name for name in (TRAIN, *EVALUATION) if (root / name).is_dir() and _subfolders(root / name)}
    evaluation = next((parts[name] for name in EVALUATION if name in parts), None)
    train = parts.get(TRAIN)
    return train or evaluation or root, evaluation or train or root


def _class_folders(root: Path) -> list[str]:
    names = _subfolders(root)
    if not names:
        files = sum(entry.is_file() for entry in os.scandir(root))
        found = f"{files} files and no folders" if files else "nothing: the folder is empty"
        raise InputError(f"expected class folders, or train and val folders of them, in {str(root)!r}, found {found}")
    return names


def _subfolders(root: Path) -> list[str]:
    try:
        entries = [e for e in os.scandir(root) if e.is_dir() and not e.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the folder {str(root)!r}: {error.strerror}") from error
    return [e.name for e in entries if not leads_back(Path(e.path), root)]


def _read_samples(root: Path, indices: dict[str, int]) -> tuple[Samples, Counter[str]]:
    """Return the images of a part, and how many there are of formats that cannot be read."""
    files: list[Path] = []
    labels: list[int] = []
    left_out = Counter[str]()
    for name in sorted(_class_folders(root), key=natural_key):
        found = list(walk_files(root / name, above=root))
        left_out += count_left_out(found)
        images = sorted((f for f in found if is_image(f.name)), key=_natural)
        files += images
        labels += [indices[name]] * len(images)
    if not files:
        foreign = f", but {describe_left_out(left_out)}" if left_out else ""
        raise InputError(f"the class folders in {str(root)!r} hold no images ({' '.join(IMG_EXTENSIONS)}){foreign}")
    return Samples(root, tuple(files), tuple(labels)), left_out


def _read_class_map(file: str | Path, found: Sequence[str]) -> dict[str, int]:
    path = Path(file)
    if path.suffix != ".txt" or not path.is_file():
        raise InputError(f"expected a .txt file with one class folder name per line as class map, found {str(path)!r}")
    indices: dict[str, int] = load_class_map(str(path))
    missing = [name for name in found if name not in indices]
    if missing:
        raise InputError(f"class map {str(path)!r} lacks {len(missing)} class folders, such as {missing[0]!r}")
    return indices


def _notes(found: Sequence[str], names: Sequence[Sequence[str]], mapped: bool, left_out: Counter[str]) -> Iterator[str]:
    if not mapped and list(found) != sorted(found):
        yield "class indices follow timm's order (2 before 10), not torchvision's; --class-map FILE sets another"
    if any(set(part) != set(found) for part in names):
        yield f"calibration and evaluation folders differ in their classes; indices are those of all {len(found)} together"
    if left_out:
        yield f"left out {describe_left_out(left_out)}"


def _take_turns(labels: Sequence[int], random: np.random.RandomState) -> list[int]:
    """Return all positions in random order, classes taking turns."""
    order = random.permutation(len(labels))
    by_class: dict[int, list[int]] = {}
    for position in order.tolist():
        by_class.setdefault(labels[position], []).append(position)
    groups = list(by_class.values())  # in the order in which the classes were drawn
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]
