/** Reading the configuration again: what would change is shown first. */
import {Dialog} from "../../components/dialog.js"
import {Failure, Waiting} from "../../components/notice.js"
import {post} from "../../core/api.js"
import {html, useLoaded, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {dotted, valueText} from "./value.js"

const SHOWN = 300 // of thousands

/** `restartOnly`: the gateway takes nothing over while it runs; what a restart changes is shown. */
export function Reload({restartOnly, onClose, onDone}) {
  const {data, error} = useLoaded(stop => post("/settings/reload", {dry_run: true}, stop))
  const [failed, setFailed] = useState(undefined)
  const [busy, setBusy] = useState(false)
  const [done, setDone] = useState(null)
  const apply = async () => {
    setBusy(true)
    try {
      setDone(await post("/settings/reload", {revision: data.revision}))
      onDone()
    } catch (problem) {
      setFailed(problem)
    }
    setBusy(false)
  }
  const now = data?.changes.filter(each => !each.restart) ?? []
  const later = data?.changes.filter(each => each.restart) ?? []
  return html`
    <${Dialog} title=${t(restartOnly ? "settings.compare_title" : "settings.reload_title")} onClose=${onClose}>
      <${Failure} error=${error ?? failed} />
      ${!data ? !error && html`<${Waiting} />` : html`
        ${data.changes.length === 0 && html`<p>${t("settings.nothing")}</p>`}
        ${done && html`<p class="notice good" role="status">${t("settings.done", {count: now.length})}</p>`}
        ${now.length > 0 && html`<h3>${t(done ? "settings.changed_now" : "settings.changes_now")}</h3><${Changes} changes=${now} />`}
        ${later.length > 0 && html`<h3>${t("settings.changes_later")}</h3><p class="dim">${t(restartOnly ? "settings.restart_only" : "settings.later_hint")}</p><${Changes} changes=${later} />`}
        ${data.warnings.length > 0 && html`<h3>${t("settings.warnings")}</h3><ul>${data.warnings.map(each => html`<li key=${each}>${each}</li>`)}</ul>`}`}
      <div class="actions">
        <button class="quiet" onClick=${onClose}>${t(done || now.length === 0 ? "action.close" : "action.cancel")}</button>
        ${now.length > 0 && !done && html`<button class="primary" disabled=${busy} onClick=${apply}>${t("settings.apply", {count: now.length})}</button>`}
      </div>
    <//>`
}

const Changes = ({changes}) => html`
  <ul class="changes">${changes.slice(0, SHOWN).map(each => html`
    <li key=${JSON.stringify(each.path)}><code>${dotted(each.path)}</code>
      ${each.before !== null && html`<del>${valueText(each.before, each.unit)}</del>`}
      ${each.after !== null && html`<ins>${valueText(each.after, each.unit)}</ins>`}
      ${each.change === "changed" && valueText(each.before, each.unit) === valueText(each.after, each.unit) && html`<span class="dim">${t("settings.secret_changed")}</span>`}</li>`)}
    ${changes.length > SHOWN && html`<li class="dim">${t("settings.further", {count: changes.length - SHOWN})}</li>`}</ul>`
