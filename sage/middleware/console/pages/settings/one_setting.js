/** One setting in full, and how it is changed. */
import {CodeBlock} from "../../components/copyable.js"
import {Dialog} from "../../components/dialog.js"
import {html} from "../../core/html.js"
import {t} from "../../core/language.js"
import {address} from "../../core/router.js"
import {Source, Value, dotted, valueText} from "./value.js"

/** The lines of a configuration file that set what is at `path` to `text`. */
function yaml(path, text) {
  const name = each => /^[A-Za-z_][\w-]*$/.test(each) ? each : JSON.stringify(each)
  const lines = path.map((each, depth) => `${"  ".repeat(depth)}${name(each)}:`)
  return `${lines.join("\n")} ${text}`
}

export function OneSetting({setting, onClose}) {
  const {path, value, hidden, source, restart, unit} = setting
  const variable = path.every(each => /^[a-z_]\w*$/.test(each)) ? `SAGE_${path.join("__").toUpperCase()}` : null
  const isInList = path.some(each => /^\d+$/.test(each))
  return html`
    <${Dialog} title=${dotted(path)} onClose=${onClose}>
      <dl class="facts">
        <div><dt>${t("settings.value")}</dt><dd><${Value} value=${value} hidden=${hidden} unit=${unit} /></dd></div>
        <div><dt>${t("settings.default")}</dt><dd><code>${valueText(setting.default, unit)}</code></dd></div>
        <div><dt>${t("settings.source")}</dt><dd><${Source} source=${source} /></dd></div>
        <div><dt>${t("settings.applies")}</dt><dd>${t(restart ? "settings.restart" : "settings.reload_does")}</dd></div>
        ${variable && html`<div class="whole"><dt>${t("origin.environment")}</dt><dd><code>${variable}</code></dd></div>`}
      </dl>
      ${hidden && html`<p class="dim">${t("settings.hidden_hint")}</p>`}
      ${source.kind === "api" ? html`<p>${t("settings.by_api")} <a href=${address("models", path[2])}>${path[2]}</a></p>`
        : !isInList && !hidden && html`<p>${t("settings.in_file")}</p><${CodeBlock} language="YAML" text=${yaml(path, unit && typeof value === "number" ? valueText(value, unit) : JSON.stringify(value))} />`}
      <div class="actions"><button class="primary" onClick=${onClose}>${t("action.close")}</button></div>
    <//>`
}
