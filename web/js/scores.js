/** The scores of Evaluate on the node itself, whichever way ComfyUI draws nodes. */

import { app } from "../../../scripts/app.js";
import { ComfyWidgets } from "../../../scripts/widgets.js";

const NODES = ["OSEDiff_Evaluate"];
const LINE = 14; // px

app.registerExtension({
  name: "osediff.scores",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!NODES.includes(nodeData.name)) return;
    const executed = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      executed?.call(this, output);
      if (!output?.text) return;
      const text = output.text.join("\n");
      let shown = this.widgets?.find((widget) => widget.name === "scores");
      if (!shown) {
        shown = ComfyWidgets.STRING(this, "scores", ["STRING", { multiline: true }], app).widget;
        shown.serialize = false;
        shown.options.serialize = false;
        if (shown.inputEl) shown.inputEl.readOnly = true;
      }
      shown.value = text;
      const [width, height] = this.computeSize();
      this.setSize([Math.max(width, this.size[0]), Math.max(height + LINE * text.split("\n").length, this.size[1])]);
      app.graph.setDirtyCanvas(true, true);
    };
  },
});
