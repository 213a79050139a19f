// What of the page is chosen, kept in the address, so that a link shows the same.

/** Return the choices in the address of the page. */
export const readAddress = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

/** Write the choices that are not empty into the address. */
export function writeAddress(choices) {
  const kept = Object.entries(choices).filter(([, value]) => value);
  const hash = `#${new URLSearchParams(kept)}`;
  if (hash === (location.hash || "#")) return;
  try {
    history.replaceState(null, "", hash);
  } catch {
    // a frame of a notebook may have no address of its own
  }
}
