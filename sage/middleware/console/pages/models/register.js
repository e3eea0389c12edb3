/** Adding a model over deployments of configured providers, and changing one that was added so. */
import {Dialog} from "../../components/dialog.js"
import {Failure, Waiting} from "../../components/notice.js"
import {told} from "../../components/toast.js"
import {get, patch, post} from "../../core/api.js"
import {html, useLoaded} from "../../core/html.js"
import {t} from "../../core/language.js"
import {go} from "../../core/router.js"
import {ModelForm} from "./model_form.js"
import {modelPath} from "./model_path.js"
import {bodyOf, changesOf, fieldsOf} from "./registration.js"

/** @param {{providers: {name: string, kind: string}[], models: any[], onClose: () => void}} properties */
export function Register({providers, models, onClose}) {
  const send = async form => {
    const made = await post(modelPath(form.name.trim()), bodyOf(form))
    onClose()
    go("models", made.name)
  }
  return html`<${ModelForm} title=${t("models.add")} action=${t("models.add")} fields=${fieldsOf({}, providers[0]?.name ?? "")}
    providers=${providers} models=${models} send=${send} onClose=${onClose} />`
}

/**
 * Only what differs is sent, and only if nobody else has changed the model since it was read here.
 * @param {{name: string, onClose: () => void}} properties
 */
export function Edit({name, onClose}) {
  const {data, error} = useLoaded(stop => Promise.all([get(modelPath(name), stop), get("/models", stop)]))
  const title = t("models.edit_title", {name})
  if (!data) return html`<${Dialog} title=${title} onClose=${onClose}><${Failure} error=${error} />${!error && html`<${Waiting} />`}<//>`
  const [{registration, revision}, {providers, models}] = data
  const fields = fieldsOf(registration ?? {}, "")
  const send = async form => {
    const changes = changesOf(fields, form)
    if (Object.keys(changes).length > 0) {
      await patch(`${modelPath(name)}?revision=${encodeURIComponent(revision)}`, changes)
      told(t("state.saved"))
    }
    onClose()
  }
  return html`<${ModelForm} title=${title} action=${t("action.save")} fields=${fields} named=${name}
    providers=${providers} models=${models} send=${send} onClose=${onClose} />`
}
