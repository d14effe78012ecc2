// Starts ReDoc with the fonts of this machine. Its footer would fetch a logo from another host,
// with no option against it: an image gets no source outside this host, however it is set.
"use strict";

const image = HTMLImageElement.prototype;
const setAttribute = image.setAttribute;
const source = Object.getOwnPropertyDescriptor(image, "src");

function isOutside(address) {
  const url = new URL(address, location.href);
  return url.protocol.startsWith("http") && url.origin !== location.origin;
}

image.setAttribute = function (name, value) {
  if (name !== "src" || !isOutside(value)) {
    setAttribute.call(this, name, value);
  }
};
Object.defineProperty(image, "src", {
  ...source,
  set(value) {
    if (!isOutside(value)) {
      source.set.call(this, value);
    }
  },
});

const fonts = "system-ui, sans-serif";
const place = document.getElementById("redoc");
Redoc.init(place.dataset.schema, {
  theme: {
    typography: {
      fontFamily: fonts,
      headings: { fontFamily: fonts },
      code: { fontFamily: "ui-monospace, monospace" },
    },
  },
}, place);
