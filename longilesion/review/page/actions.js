// Everything that can be done, by one table: buttons, keys and the help are made of it.

const shown = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageUp: "Page Up", PageDown: "Page Down", Escape: "Esc", " ": "Space" };

const keyText = (key) => key.split("+").map((part) => shown[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join(" ");

export function addButtons(group, actions) {
  for (const action of actions) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.action = action.name;
    button.append(action.label);
    if (action.title) button.title = action.title;
    if (action.isPrimary) button.className = "primary";
    if (action.key && !action.isKeyHidden) {
      const key = document.createElement("kbd");
      key.textContent = keyText(action.key);
      button.append(key);
    }
    button.addEventListener("click", () => action.run());
    group.append(button);
  }
}

export function addHelp(list, actions) {
  for (const action of actions) {
    if (!action.key) continue;
    const row = document.createElement("div");
    const key = document.createElement("kbd");
    key.textContent = [action.key, ...(action.keys ?? [])].map(keyText).join(" / ");
    const text = document.createElement("span");
    text.textContent = action.help ?? action.label;
    row.append(key, text);
    list.append(row);
  }
}

const pressed = (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return (event.ctrlKey || event.metaKey ? "Ctrl+" : "") + (event.shiftKey && key.length > 1 ? "Shift+" : "") + key;
};

// Before NiiVue, which has keys of its own.
export function listen(actions) {
  window.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]") || event.altKey) return;
    const key = pressed(event);
    const isField = event.target.closest?.("select, input");
    const isButton = event.target.closest?.("button, a");
    if (isField || (isButton && (key === "Enter" || key === " "))) return;
    if (event.target.closest?.("canvas")) event.stopPropagation();
    const action = actions.find((each) => (each.key === key || each.keys?.includes(key)) && (each.isPossible?.() ?? true));
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    // A key that is held down decides once.
    if (!(event.repeat && action.isDecision)) action.run();
  }, true);
}
