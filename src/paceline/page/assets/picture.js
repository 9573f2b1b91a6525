// The picture that is asked about: dropped, pasted or chosen; sent as it is, to this server alone.
import { byId } from "./elements.js";

const READABLE = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];
const LARGEST_BYTES = 14_000_000; // as base64 within a body of 20 MiB

export class Picture {
  constructor(changed) {
    this.changed = changed;
    this.url = null;
    const drop = byId("drop");
    byId("file").addEventListener("change", (event) => this.take(event.target.files[0]));
    byId("remove").addEventListener("click", () => this.remove());
    byId("example").addEventListener("click", () => this.takeExample());
    for (const kind of ["dragenter", "dragover"]) {
      document.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.take(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => {
      const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
      if (file) this.take(file);
    });
  }

  async takeExample() {
    const answer = await fetch("page/example.png");
    await this.take(new File([await answer.blob()], "four handwritten digits", { type: "image/png" }));
  }

  async take(file) {
    if (!file) return;
    if (!READABLE.includes(file.type)) return this.#say(`${file.name} is ${file.type || "of no known type"}; expected PNG, JPEG, WebP, GIF or BMP.`);
    if (file.size > LARGEST_BYTES) return this.#say(`${file.name} has ${bytes(file.size)}; expected at most ${bytes(LARGEST_BYTES)}.`);
    const shown = URL.createObjectURL(file);
    const image = byId("preview");
    try {
      await loaded(image, shown);
    } catch {
      URL.revokeObjectURL(shown);
      if (this.url === null) this.remove();
      else image.src = this.shown;
      return this.#say(`${file.name} cannot be read as a picture.`);
    }
    if (this.shown) URL.revokeObjectURL(this.shown);
    this.shown = shown;
    this.url = await dataUrl(file);
    image.alt = `The picture asked about: ${file.name}`;
    image.hidden = false;
    byId("hint").hidden = true;
    byId("drop").classList.add("filled");
    byId("remove").hidden = false;
    byId("file").value = "";
    this.#say(`${file.name}, ${image.naturalWidth} × ${image.naturalHeight}, ${bytes(file.size)}`);
    this.changed();
  }

  remove() {
    if (this.shown) URL.revokeObjectURL(this.shown);
    this.url = this.shown = null;
    const image = byId("preview");
    image.hidden = true;
    image.removeAttribute("src");
    byId("hint").hidden = false;
    byId("drop").classList.remove("filled");
    byId("remove").hidden = true;
    this.#say("PNG, JPEG, WebP, GIF or BMP. It goes to this server and nowhere else.");
  }

  #say(words) {
    byId("picture-said").textContent = words;
  }
}

const bytes = (count) => (count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(count / 1e3))} KB`);

function loaded(image, url) {
  return new Promise((resolve, reject) => {
    image.onload = resolve;
    image.onerror = reject;
    image.src = url;
  });
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
