/** The settings that apply, each with where it comes from, and reading the configuration again. */
import {ChoiceFilter, TextFilter} from "../../components/filter_bar.js"
import {Empty, Failure, Waiting} from "../../components/notice.js"
import {PageHead} from "../../components/page_head.js"
import {Table} from "../../components/table.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {usePages} from "../../core/pages.js"
import {queryOf, useQuery} from "../../core/query.js"
import {OneSetting} from "./one_setting.js"
import {Reload} from "./reload.js"
import {Source, Value, dotted} from "./value.js"

const ALL = "all"
const DEFAULTS = {find: "", source: "set", section: ""}
const AT_ONCE = 500 // thousands of models have tens of thousands of settings

export function Settings() {
  const [{find, source, section}, set] = useQuery(DEFAULTS)
  const query = queryOf({limit: AT_ONCE, contains: find, source: source === ALL ? "" : source, prefix: section})
  const {pages, cursor, error, next, more, retry, reload} = usePages(`/settings?${query}`)
  const [open, setOpen] = useState(/** @type {any} */ (null))
  const [reloading, setReloading] = useState(false)
  const [about] = pages
  if (!about) return html`<h1>${t("page.settings")}</h1><${Failure} error=${error} retry=${retry} />${!error && html`<${Waiting} />`}`
  const rows = pages.flatMap(page => page.settings)
  const columns = [
    {key: "path", title: t("settings.setting"), cell: each => html`<code title=${dotted(each.path)}>${dotted(each.path)}</code>`},
    {key: "value", title: t("settings.value"), cell: each => html`<${Value} value=${each.value} hidden=${each.hidden} unit=${each.unit} />`},
    {key: "source", title: t("settings.source"), cell: each => html`<${Source} source=${each.source} />`},
    {key: "applies", title: t("settings.applies"), cell: each => html`<span class="dim">${t(each.restart ? "settings.restart" : "settings.reload_does")}</span>`},
  ]
  return html`
    <${PageHead} title=${t("page.settings")} hint=${html`${t("settings.hint")} <code>${about.file ?? t("settings.no_file")}</code>`}>
      <button class="primary" disabled=${!about.reloadable && !about.restart_only} title=${about.not_reloadable ?? ""}
        onClick=${() => setReloading(true)}>${t(about.restart_only ? "settings.compare" : "settings.reload")}</button><//>
    ${about.restart_only && html`<p class="notice">${t("settings.restart_only")}</p>`}
    <div class="filters">
      <${TextFilter} label=${t("settings.find")} value=${find} onChange=${text => set({find: text})} />
      <${ChoiceFilter} label=${t("settings.source")} value=${source} onChange=${kind => set({source: kind})}
        options=${[["set", t("settings.all_set")], [ALL, t("requests.any")], ...about.sources.map(each => [each, t(`origin.${each}`)])]} />
      <${ChoiceFilter} label=${t("settings.section")} value=${section} onChange=${name => set({section: name})}
        options=${["", ...new Set([...about.sections, section])].filter((each, at) => at === 0 || each).map(each => [each, each || t("requests.any")])} />
      <span class="dim" role="status">${t("settings.count", {count: about.total})}</span>
    </div>
    <${Failure} error=${error} retry=${retry} />
    ${rows.length === 0
      ? html`<${Empty} title=${t("settings.none")}><p>${t(source === "set" && find === "" ? "settings.none_set" : "settings.none_hint")}</p><//>`
      : html`<${Table} label=${t("page.settings")} columns=${columns} rows=${rows} id=${each => JSON.stringify(each.path)} onOpen=${setOpen} onEnd=${more} />`}
    ${cursor && html`<button class="quiet wide" onClick=${next}>${t("settings.more", {count: about.total - rows.length})}</button>`}
    ${open && html`<${OneSetting} setting=${open} onClose=${() => setOpen(null)} />`}
    ${reloading && html`<${Reload} restartOnly=${about.restart_only} onClose=${() => setReloading(false)} onDone=${reload} />`}`
}
