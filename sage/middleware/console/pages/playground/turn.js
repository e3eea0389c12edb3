/** A question, which can be asked anew, and the answers to it. */
import {html, useMemo, useState} from "../../core/html.js"
import {language, t} from "../../core/language.js"
import {Answer} from "./answer.js"
import {Composer, Pictures} from "./composer.js"
import {goOn, send} from "./conversation.js"

/** @param {{turn: import("./conversation.js").Turn, busy: boolean, isLast: boolean, earlier: any[]}} properties */
export function Turn({turn, busy, isLast, earlier}) {
  const [editing, setEditing] = useState(false)
  const again = (question, pictures) => { setEditing(false); send(question, pictures, turn) }
  // A turn that did not change is not drawn anew while another one comes in.
  return useMemo(() => html`
    <div class="turn">
      ${editing ? html`
        <${Composer} id=${`question-${turn.id}`} label=${t("playground.question")} question=${turn.question} pictures=${turn.pictures}
          earlier=${earlier} onSend=${again} actions=${({ready}) => html`
            <button type="button" class="quiet" onClick=${() => setEditing(false)}>${t("action.cancel")}</button>
            <button class="primary" disabled=${!ready}>${t("playground.again")}</button>`} />
        ${!isLast && html`<p class="dim">${t("playground.dropped")}</p>`}`
      : html`
        <div class="question"><${Pictures} pictures=${turn.pictures} />${turn.question}</div>
        <div class="question-bar">
          <button class="quiet small" disabled=${busy} onClick=${() => setEditing(true)}>${t("playground.edit")}</button>
          ${isLast && html`<button class="quiet small" disabled=${busy} onClick=${() => send(turn.question, turn.pictures, turn)}>${t("playground.again")}</button>`}
        </div>`}
      <div class=${`answers sides-${turn.sides.length}`}>
        ${turn.sides.map((answers, side) => html`
          <div class="side" key=${side}>${answers.map((answer, step) => html`
            <${Answer} key=${step} answer=${answer} onResults=${isLast && !busy && step === answers.length - 1
              ? results => goOn(turn, side, results) : undefined} />`)}</div>`)}
      </div>
    </div>`, [turn, busy, isLast, editing, language.peek()])
}
