/** The settings that apply, each with where it comes from, and reading the configuration again. */
import {ChoiceFilter, TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
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
  const set = name => value => setFilters(before => ({...before, [name]: value}))
  const sections = [...new Set(data.settings.map(each => each.path[0]))]
  const sources = [...new Set(data.settings.map(each => each.source.kind))]
  const columns = [
    {key: "path", title: t("settings.setting"), cell: each => html`<code>${dotted(each.path)}</code>`},
    {key: "value", title: t("settings.value"), cell: each => html`<${Value} value=${each.value} hidden=${each.hidden} unit=${each.unit} />`},
    {key: "source", title: t("settings.source"), cell: each => html`<${Source} source=${each.source} />`},
    {key: "applies", title: t("settings.applies"), cell: each => html`<span class="dim">${t(each.restart ? "settings.restart" : "settings.reload_does")}</span>`},
  ]
  return html`
    <${PageHead} title=${t("page.settings")} hint=${html`${t("settings.hint")} <code>${data.file ?? t("settings.no_file")}</code>`}>
      <button class="primary" disabled=${!data.reloadable} title=${data.not_reloadable ?? ""} onClick=${() => setReloading(true)}>${t("settings.reload")}</button><//>
    <div class="filters">
      <${TextFilter} label=${t("settings.find")} value=${filters.text} onChange=${set("text")} />
      <${ChoiceFilter} label=${t("settings.source")} value=${filters.source} onChange=${set("source")}
        options=${[["set", t("settings.all_set")], ["", t("requests.any")], ...sources.map(each => [each, t(`origin.${each}`)])]} />
      <${ChoiceFilter} label=${t("settings.section")} value=${filters.section} onChange=${set("section")}
        options=${[["", t("requests.any")], ...sections.map(each => [each, each])]} />
      <span class="dim" role="status">${t("settings.count", {count: rows.length})}</span>
    </div>
    ${rows.length === 0
      ? html`<${Empty} title=${t("settings.none")}><p>${t(filters.source === "set" && filters.text === "" ? "settings.none_set" : "settings.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.settings")} columns=${columns} rows=${rows} id=${each => JSON.stringify(each.path)} onOpen=${setOpen} />`}
    ${open && html`<${OneSetting} setting=${open} onClose=${() => setOpen(null)} />`}
    ${reloading && html`<${Reload} onClose=${() => setReloading(false)} onDone=${reload} />`}`
}
