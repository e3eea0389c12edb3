/** Libraries that are no modules, loaded when first needed. */
const loaded = new Map()

/**
 * Loads `vendor/<name>.js`, which sets names of the window.
 * @param {string} name
 * @returns {Promise<any>} the window
 */
export function script(name) {
  if (!loaded.has(name)) {
    loaded.set(name, new Promise((done, fail) => {
      const element = document.createElement("script")
      element.src = `/console/vendor/${name}.js`
      element.onload = () => done(window)
      element.onerror = () => { loaded.delete(name); fail(new Error(`cannot load ${name}`)) }
      document.head.append(element)
    }))
  }
  return loaded.get(name)
}
