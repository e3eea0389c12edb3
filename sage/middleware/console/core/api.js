/** Calls of the gateway's public API, with the session's access token. What the console can, curl can. */
import {accessToken, sessionEnded} from "./session.js"

/** An answer that is no success, or none at all (`status` 0). */
export class ApiError extends Error {
  constructor(status, message, code, requestId, param = undefined) {
    super(message)
    this.status = status
    this.code = code
    this.requestId = requestId
    /** The field of the request that is wrong, if it is one. */
    this.param = param
  }
}

/**
 * The response of a request; raises {@link ApiError} unless it is a success.
 * @param {string} method
 * @param {string} path below the gateway's root
 * @param {{body?: unknown, stop?: AbortSignal, headers?: Record<string, string>}} [options] `body` is sent as JSON
 *   unless it is a form, a file or bytes
 */
export async function request(method, path, {body, stop, headers = {}} = {}) {
  let answer = await send(method, path, body, stop, headers, await accessToken())
  if (answer.status === 401) answer = await send(method, path, body, stop, headers, await accessToken({renew: true}))
  if (answer.status === 401) sessionEnded()
  if (!answer.ok) throw await failure(answer)
  return answer
}

/** The parsed JSON of a request's answer; `undefined` if it has no body. */
export async function call(method, path, options) {
  const answer = await request(method, path, options)
  return answer.status === 204 ? undefined : answer.json()
}

export const get = (path, stop) => call("GET", path, {stop})
export const post = (path, body, stop) => call("POST", path, {body, stop})
export const patch = (path, body) => call("PATCH", path, {body})
export const remove = path => call("DELETE", path)

async function send(method, path, body, stop, headers, token) {
  const isRaw = body instanceof FormData || body instanceof Blob || body instanceof URLSearchParams
  const sent = {...headers}
  if (token) sent.authorization = `Bearer ${token}`
  if (body !== undefined && !isRaw) sent["content-type"] = "application/json"
  try {
    return await fetch(path, {method, headers: sent, body: isRaw || body === undefined ? body : JSON.stringify(body),
      signal: stop, cache: "no-store"})
  } catch (error) {
    if (stop?.aborted) throw error
    throw new ApiError(0, "the gateway does not answer", "unreachable", "")
  }
}

/** Saves what a path answers as a file. */
export async function saveFile(path, name) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(await (await request("GET", path)).blob())
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 1000)
}

/** The error that an answer carries. */
export async function failure(answer) {
  const told = await answer.json().catch(() => ({}))
  const error = typeof told.error === "object" && told.error ? told.error : {message: told.error_description}
  return new ApiError(answer.status, error.message ?? answer.statusText, error.code, answer.headers.get("x-request-id"), error.param)
}

/**
 * The events of a stream (`data:` lines), parsed, as they come; `[DONE]` ends it.
 * Raises {@link ApiError} for an error event, and when the stream is cut off before its end.
 * @param {Response} answer
 * @returns {AsyncGenerator<any>}
 */
export async function* events(answer) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader()
  const decoder = new TextDecoder()
  let rest = ""
  try {
    for (;;) {
      const {done, value} = await reader.read()
      if (done) throw new ApiError(0, "the stream was cut off", "cut_off", "")
      const lines = (rest + decoder.decode(value, {stream: true})).split("\n")
      rest = lines.pop() ?? ""
      for (const line of lines) {
        if (!line.startsWith("data:")) continue
        const data = line.slice(5).trim()
        if (data === "[DONE]") return
        const event = JSON.parse(data)
        if (event.error) throw new ApiError(200, event.error.message, event.error.code, "")
        yield event
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

/**
 * The events of a stream that is followed for as long as `stop` is not aborted: taken up anew when it breaks off, after
 * a pause that grows to half a minute. `onBreak` is told why.
 * @param {string} path
 * @param {AbortSignal} stop
 * @param {(error: any) => void} [onBreak]
 */
export async function* follow(path, stop, onBreak = undefined) {
  let pause = 1
  while (!stop.aborted) {
    try {
      for await (const event of events(await request("GET", path, {stop}))) {
        pause = 1
        yield event
      }
    } catch (error) {
      if (stop.aborted) return
      if (error.status === 401 || error.status === 403 || error.status === 404) throw error
      onBreak?.(error)
    }
    await new Promise(done => setTimeout(done, pause * 1000))
    pause = Math.min(30, pause * 2)
  }
}
