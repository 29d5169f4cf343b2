"""Names, tooltips and help pages belong to the nodes as they are, in both languages."""

import json

import pytest
from conftest import ROOT

LANGUAGES = ("en", "zh")


@pytest.fixture(scope="module")
def schemas(pack):
    import sys

    return {s.node_id: s for s in (n.define_schema() for n in sys.modules["osediff_pack.nodes"].NODES)}


def names(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_every_input_has_a_tooltip_and_every_node_a_description(schemas):
    for node_id, schema in schemas.items():
        assert schema.description and schema.search_aliases and schema.category == "OSEDiff"
        assert all(i.tooltip for i in schema.inputs), node_id


def test_english_names_are_those_of_the_schemas(schemas):
    """What is written here replaces the schema's on the screen and in the titles of API workflows."""
    found = names("en")
    assert found.keys() == schemas.keys()
    for node_id, schema in schemas.items():
        assert found[node_id]["display_name"] == schema.display_name
        assert found[node_id]["description"] == schema.description
        tooltips = {name: entry["tooltip"] for name, entry in found[node_id]["inputs"].items()}
        assert tooltips == {i.id: i.tooltip for i in schema.inputs}, node_id
        assert len(found[node_id]["outputs"]) == len(schema.outputs)


def test_chinese_names_are_complete(schemas):
    english, chinese = names("en"), names("zh")
    assert english.keys() == chinese.keys()
    for node_id in english:
        for part in ("inputs", "outputs"):
            assert english[node_id][part].keys() == chinese[node_id][part].keys(), node_id
        for entry in (
            chinese[node_id]["description"],
            *(i["tooltip"] for i in chinese[node_id]["inputs"].values()),
        ):
            assert any("一" <= letter <= "鿿" for letter in entry), entry


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(schemas, language):
    for node_id, schema in schemas.items():
        page = (ROOT / "web" / "docs" / node_id / f"{language}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {names(language)[node_id]['display_name']}\n")
        assert all(f"`{i.id}`" in page for i in schema.inputs), node_id
        outputs = [o.display_name or o.id or o.io_type for o in schema.outputs]
        assert all(f"`{name}`" in page for name in outputs), node_id
