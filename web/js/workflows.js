/** The pack's workflows as they open: their example pictures are put into the input folder, and their notes and groups
 * are Chinese in a Chinese ComfyUI. What a person has written anew stays as it is. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const LOADERS = ["LoadImage", "LoadVideo"];
const EXAMPLE = /^osediff_(barn|lighthouse|plane|original|clip)\.(png|jpg|mp4)$/;
const SAVED = 210; // px that a saved picture keeps beside a slider
const LANGUAGES = ["zh"]; // files of ../locales

async function provideExamples(nodes) {
  const names = nodes
    .filter((node) => LOADERS.includes(node.type))
    .map((node) => node.widgets_values?.[0])
    .filter((name) => EXAMPLE.test(name));
  let added = false;
  for (const name of new Set(names)) {
    const answer = await api.fetchApi(`/osediff/examples/${name}`, { method: "POST" });
    added ||= answer.ok && (await answer.json()).added;
  }
  if (added) await app.refreshComboInNodes();
}

async function translate(workflow) {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  if (!LANGUAGES.includes(language)) return;
  const texts = await (await fetch(new URL(`../locales/${language}.json`, import.meta.url))).json();
  const said = (text) => texts[text] ?? text;
  for (const group of workflow.groups ?? []) group.title = said(group.title);
  for (const node of workflow.nodes) {
    if (node.title) node.title = said(node.title);
    if (node.type === "MarkdownNote") {
      node.widgets_values = node.widgets_values.map((text) => text.split("\n\n").map(said).join("\n\n"));
    }
  }
}

/** Classic nodes have no slider: there Save Image is the large one above it. */
function enlargeSliders(nodes) {
  if (!app.extensionManager.setting.get("Comfy.VueNodes.Enabled")) return;
  for (const slider of nodes.filter((node) => node.type === "ImageCompare")) {
    const above = nodes.find((node) => node.type === "SaveImage" && node.pos[0] === slider.pos[0]);
    const more = above ? above.size[1] - SAVED : 0;
    if (more <= 0) continue;
    above.size[1] -= more;
    slider.pos[1] -= more;
    slider.size[1] += more;
  }
}

app.registerExtension({
  name: "osediff.workflows",
  async beforeConfigureGraph(workflow) {
    if (!workflow?.nodes?.some((node) => String(node.type).startsWith("OSEDiff_"))) return;
    await provideExamples(workflow.nodes);
    await translate(workflow);
    enlargeSliders(workflow.nodes);
  },
});
