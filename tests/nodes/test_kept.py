"""What boxes keep loaded: as many as there are boxes, and nothing once ComfyUI has let go of all."""

import gc


class Box:
    pass


def test_one_for_each_box_and_nothing_without(pack):
    """Other tests make no boxes here: that is what ComfyUI does."""
    kind, loads = pack.kept.Kept(), []

    def load(name):
        return kind.get_or_load(name, lambda: loads.append(name) or name.upper())

    box = Box()
    pack.kept.keep_for(box)
    assert [load(name) for name in "aab"] == ["A", "A", "B"] and loads == ["a", "b"]
    assert list(kind.things) == ["b"]  # one box, one base: the other made room before this was loaded
    second = Box()
    pack.kept.keep_for(second)
    assert load("a") == "A" and load("b") == "B" and loads == ["a", "b", "a"]
    del box
    gc.collect()
    assert list(kind.things) == ["a", "b"]
    load("c")
    assert list(kind.things) == ["c"]
    del second
    gc.collect()
    assert not kind.things
    load("d")
    assert not kind.things
