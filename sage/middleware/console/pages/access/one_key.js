/** One API key: what it may do and has used; changed, given a new secret, revoked. */
import {BudgetFields, LimitFields, readBudget, readLimits} from "../../components/budget_fields.js"
import {Confirm} from "../../components/dialog.js"
import {Facts} from "../../components/facts.js"
import {Field} from "../../components/field.js"
import {Form, FormDialog} from "../../components/form_dialog.js"
import {Panel} from "../../components/panel.js"
import {told} from "../../components/toast.js"
import {When} from "../../components/when.js"
import {patch, post, remove} from "../../core/api.js"
import {html, useState} from "../../core/html.js"
import {t} from "../../core/language.js"
import {addressOf} from "../../core/query.js"
import {may} from "../../core/session.js"
import {MadeKey} from "./new_key.js"
import {ScopeList, TextField, changesOf, localTime, plainBudget, plainLimits, words} from "./rights.js"

const HOUR = 3600
const OVERLAPS = {none: 0, hour: HOUR, day: 24 * HOUR, week: 7 * 24 * HOUR, month: 30 * 24 * HOUR}

export function OneKey({of, onClose, onChanged}) {
  const [act, setAct] = useState("")
  const [made, setMade] = useState(null)
  const ended = of.revoked_at !== null
  const name = of.name || `…${of.last4}`
  const save = async form => {
    const ends = String(form.get("expires_at"))
    const body = changesOf(
      {...of, budget: of.budget?.source === "api" ? plainBudget(of.budget) : null, limits: plainLimits(of.limits), expires_at: localTime(of.expires_at)},
      {name: form.get("name"), note: form.get("note"), tags: words(form.get("tags")), models: words(form.get("models")), tools: words(form.get("tools")),
        expires_at: ends, limits: readLimits(form), budget: readBudget(form)})
    if ("expires_at" in body) body.expires_at = ends ? Math.floor(new Date(ends).getTime() / 1000) : null
    if (Object.keys(body).length) await patch(`/auth/keys/${of.id}`, body)
    onChanged()
  }
  const rotate = async form => {
    setMade(await post(`/auth/keys/${of.id}/rotate`, {overlap: OVERLAPS[String(form.get("overlap"))]}))
    onChanged()
  }
  return html`
    <${Panel} title=${name} onClose=${onClose}>
      <${Facts} items=${[
        [t("people.user"), `${of.user} · ${of.tenant}`],
        [t("keys.key"), html`<code>…${of.last4}</code> <span class="dim">${of.id}</span>`],
        [t("keys.rights"), html`<${ScopeList} scopes=${of.scopes} />`],
        [t("keys.last_used"), html`<${When} at=${of.last_used_at} />`],
        [t("jobs.created"), html`<${When} at=${of.created_at} />`],
        ...(of.previous_expires_at ? [[t("keys.old_secret"), html`<${When} at=${of.previous_expires_at} />`]] : []),
        ...(ended ? [[t("keys.revoked"), html`<${When} at=${of.revoked_at} />`]] : []),
      ]} />
      ${may.peek()("usage") && html`<p class="links"><a href=${addressOf("requests", "", {key: of.id})}>${t("keys.see_requests")}</a>
        <a href=${addressOf("usage", "", {key: of.id})}>${t("page.usage")}</a></p>`}
      ${!ended && html`
        <div class="buttons"><button onClick=${() => setAct("rotate")}>${t("keys.rotate")}</button>
          <button class="danger" onClick=${() => setAct("revoke")}>${t("keys.revoke")}</button></div>
        <h3>${t("keys.change")}</h3>
        <${Form} action=${t("action.save")} send=${save}>
          <${TextField} label=${t("keys.name")} name="name" value=${of.name} maxlength="100" />
          <${TextField} label=${t("people.note")} name="note" value=${of.note} />
          <${TextField} label=${t("call.tags")} name="tags" value=${of.tags.join(", ")} hint=${t("keys.tags_hint")} />
          <${TextField} label=${t("keys.models")} name="models" value=${of.models.join(", ")} required hint=${t("keys.narrow_hint")} />
          <${TextField} label=${t("keys.tools")} name="tools" value=${of.tools.join(", ")} required />
          <${TextField} label=${t("keys.expires")} name="expires_at" type="datetime-local" value=${localTime(of.expires_at)} hint=${t("keys.expires_hint")} />
          <${LimitFields} limits=${of.limits} />
          <${BudgetFields} budget=${of.budget?.source === "api" ? of.budget : undefined} />
        <//>`}
      ${act === "rotate" && html`
        <${FormDialog} title=${t("keys.rotate_title", {name})} action=${t("keys.rotate")} done=${t("keys.rotated")} send=${rotate} onClose=${() => setAct("")}>
          <p>${t("keys.rotate_hint")}</p>
          <${Field} label=${t("keys.overlap")}>${field => html`
            <select ...${field} name="overlap">${Object.keys(OVERLAPS).map(each => html`
              <option key=${each} value=${each} selected=${each === "day"}>${t(`overlap.${each}`)}</option>`)}</select>`}<//>
        <//>`}
      ${act === "revoke" && html`
        <${Confirm} title=${t("keys.revoke_title", {name})} lost=${t("keys.revoke_lost")} action=${t("keys.revoke")} onClose=${() => setAct("")}
          onConfirm=${async () => { await remove(`/auth/keys/${of.id}`); told(t("keys.revoked")); onChanged(); onClose() }} />`}
      ${made && html`<${MadeKey} secret=${made.key} onClose=${() => setMade(null)} />`}
    <//>`
}
