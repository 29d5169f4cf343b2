/** Warnings of the pack's nodes as messages of the page: what is inside a subgraph or a box has no node to show them. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const SECONDS = 20;

app.registerExtension({
  name: "osediff.warnings",
  setup() {
    api.addEventListener("osediff.warning", ({ detail }) => {
      const title = app.graph?.getNodeById(detail.node)?.title ?? "OSEDiff";
      app.extensionManager.toast.add({
        severity: "warn",
        summary: title,
        detail: detail.text,
        life: SECONDS * 1000,
      });
    });
  },
});
