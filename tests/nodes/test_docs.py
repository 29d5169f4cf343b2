"""Names, tooltips and help pages belong to the nodes as they are, in both languages."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LANGUAGES = ("en", "zh")
# an input: "- `id` (`default`): …", with its Chinese name behind the id on a Chinese page
_INPUT = re.compile(r"^- `(\w+)`([^`:：（(]*)(?:[（(]`([^`]*)`[)）])?[:：]", re.MULTILINE)


@pytest.fixture(scope="module")
def schemas(pack):
    return {s.node_id: s for s in (n.define_schema() for n in sys.modules["osediff_pack.nodes"].NODES)}


def locale(language, name="nodeDefs"):
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def help_page(node_id, language):
    return (ROOT / "web" / "docs" / node_id / f"{language}.md").read_text(encoding="utf-8")


def keys(tree):
    """The same tree without its texts."""
    return {name: keys(entry) for name, entry in tree.items()} if isinstance(tree, dict) else None


def texts(tree):
    return [
        text for entry in tree.values() for text in (texts(entry) if isinstance(entry, dict) else [entry])
    ]


def shown(default):
    """A default as the help pages write it; nothing for an input without one."""
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case _:
            return str(default)


def test_every_input_has_a_tooltip_and_every_node_a_description(schemas):
    for node_id, schema in schemas.items():
        assert schema.description and schema.search_aliases and schema.category == "OSEDiff"
        assert all(i.tooltip for i in schema.inputs), node_id


def test_chinese_names_are_complete(schemas):
    """English ones need no file: ComfyUI shows those of the schemas."""

    def entry(socket):
        return {"name": None, "tooltip": None} if socket.tooltip else {"name": None}

    assert keys(locale("zh")) == {
        node_id: {
            "display_name": None,
            "description": None,
            "inputs": {i.id: entry(i) for i in schema.inputs},
            "outputs": {str(slot): entry(o) for slot, o in enumerate(schema.outputs)},
        }
        for node_id, schema in schemas.items()
    }
    assert keys(locale("zh", "main")) == keys(locale("en", "main"))


def test_chinese_texts_are_chinese():
    for node_id, node in locale("zh").items():
        sockets = [*node["inputs"].values(), *node["outputs"].values()]
        tooltips = [socket["tooltip"] for socket in sockets if "tooltip" in socket]
        for text in (node["description"], *tooltips):
            assert re.search("[一-鿿]", text), (node_id, text)
            assert not re.search("[一-鿿][,;:!?]", text), (node_id, text)  # these are ，；：！？ there


@pytest.mark.parametrize(("language", "name"), [("en", "main"), ("zh", "main"), ("zh", "nodeDefs")])
def test_names_hold_nothing_that_the_front_end_would_interpret(language, name):
    """vue-i18n takes {…}, @ and | in a message as placeholders, links and plurals."""
    assert not [text for text in texts(locale(language, name)) if re.search(r"[{}@|]", text)]


def test_there_are_help_pages_for_the_nodes_and_for_nothing_else(schemas):
    pages = {
        path.relative_to(ROOT / "web" / "docs").as_posix() for path in (ROOT / "web" / "docs").rglob("*.md")
    }
    assert pages == {f"{node_id}/{language}.md" for node_id in schemas for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_pages_list_the_inputs_with_their_defaults_and_the_outputs(schemas, language):
    """In the schema's order."""
    chinese = locale("zh")
    for node_id, schema in schemas.items():
        names, page = chinese[node_id], help_page(node_id, language)
        title = schema.display_name if language == "en" else names["display_name"]
        assert page.startswith(f"# {title}\n")
        inputs, outputs = page.split("\n## ")[1:3]
        assert [tuple(part.strip() for part in found) for found in _INPUT.findall(inputs)] == [
            (
                i.id,
                "" if language == "en" else names["inputs"][i.id]["name"],
                shown(getattr(i, "default", None)),
            )
            for i in schema.inputs
        ], node_id
        listed = re.findall(r"^- `(\w+)`", outputs, re.MULTILINE)
        assert listed == [o.display_name or o.io_type for o in schema.outputs], node_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_messages_in_help_pages_are_those_of_the_code(schemas, language):
    """A list entry of a page that begins with a quotation explains a message of the program."""
    files = [*(ROOT / "nodes").rglob("*.py"), *(ROOT / "osediff_core").rglob("*.py")]
    said = [
        constant.value
        for file in files
        for constant in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    ]
    for node_id in schemas:
        quoted = [
            quotation
            for entry in re.findall(r'^- (["“].+?["”])[:： （(]', help_page(node_id, language), re.MULTILINE)
            for quotation in re.findall(r'["“](.+?)["”]', entry)
        ]
        assert quoted, node_id
        for quotation in quoted:
            assert any(quotation in text for text in said), (node_id, quotation)


def test_both_languages_explain_the_same_messages(schemas):
    for node_id in schemas:
        english = re.findall(r'"([^"]+)"', help_page(node_id, "en").split("## If something goes wrong")[1])
        chinese = help_page(node_id, "zh").split("## 出错时")[1]
        assert all(f"“{message}”" in chinese for message in english), node_id
