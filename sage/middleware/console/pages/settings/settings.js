/** The settings that apply, each with where it comes from, and reading the configuration again. */
import {Failure, Waiting} from "../../components/notice.js"
import {Table} from "../../components/table.js"
import {get} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {OneSetting} from "./one_setting.js"
import {Reload} from "./reload.js"
import {Source, Value, dotted} from "./value.js"

/** What the filters leave of the settings. */
function wanted(settings, {text, source, section}) {
  const sought = text.trim().toLowerCase()
  return settings.filter(each => (section === "" || each.path[0] === section)
    && (source === "" || (source === "set" ? each.source.kind !== "default" : each.source.kind === source))
    && (sought === "" || dotted(each.path).toLowerCase().includes(sought)))
}

export function Settings() {
  const {data, error, reload} = useLoaded(stop => get("/settings", stop))
  const [filters, setFilters] = useState({text: "", source: "set", section: ""})
  const [open, setOpen] = useState(null)
  const [reloading, setReloading] = useState(false)
  if (!data) return html`<h1>${t("page.settings")}</h1><${Failure} error=${error} retry=${reload} />${!error && html`<${Waiting} />`}`
  const rows = wanted(data.settings, filters)
  const set = name => event => setFilters({...filters, [name]: event.target.value})
  const sections = [...new Set(data.settings.map(each => each.path[0]))]
  const sources = [...new Set(data.settings.map(each => each.source.kind))]
  const columns = [
    {key: "path", title: t("settings.setting"), cell: each => html`<code>${dotted(each.path)}</code>`},
    {key: "value", title: t("settings.value"), cell: each => html`<${Value} value=${each.value} hidden=${each.hidden} unit=${each.unit} />`},
    {key: "source", title: t("settings.source"), cell: each => html`<${Source} source=${each.source} />`},
    {key: "applies", title: t("settings.applies"), cell: each => html`<span class="dim">${t(each.restart ? "settings.restart" : "settings.reload_does")}</span>`},
  ]
  return html`
    <div class="title-row"><h1>${t("page.settings")}</h1>
      <span class="dim name">${data.file ?? t("settings.no_file")}</span>
      <button class="primary" disabled=${!data.reloadable} title=${data.not_reloadable ?? ""} onClick=${() => setReloading(true)}>${t("settings.reload")}</button></div>
    <div class="filters">
      <label>${t("settings.find")} <input type="search" value=${filters.text} spellcheck="false" onInput=${set("text")} /></label>
      <label>${t("settings.source")} <select value=${filters.source} onChange=${set("source")}>
        <option value="set">${t("settings.all_set")}</option><option value="">${t("requests.any")}</option>
        ${sources.map(each => html`<option key=${each} value=${each}>${t(`origin.${each}`)}</option>`)}</select></label>
      <label>${t("settings.section")} <select value=${filters.section} onChange=${set("section")}>
        <option value="">${t("requests.any")}</option>
        ${sections.map(each => html`<option key=${each} value=${each}>${each}</option>`)}</select></label>
      <span class="dim" role="status">${t("settings.count", {count: rows.length})}</span>
    </div>
    ${rows.length === 0
      ? html`<div class="empty"><h2>${t("settings.none")}</h2><p>${t(filters.source === "set" && filters.text === "" ? "settings.none_set" : "settings.none_hint")}</p></div>`
      : html`<${Table} label=${t("page.settings")} columns=${columns} rows=${rows} id=${each => JSON.stringify(each.path)} onOpen=${setOpen} />`}
    ${open && html`<${OneSetting} setting=${open} onClose=${() => setOpen(null)} />`}
    ${reloading && html`<${Reload} onClose=${() => setReloading(false)} onDone=${reload} />`}`
}
