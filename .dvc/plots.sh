#!/usr/bin/env bash
# Makes plots.html, the page of `dvc plots diff` and `dvc plots show`, with Vega inside: DVC's own page loads it from a
# network. Packed, the three libraries take a third; browsers unpack them since 2023. Their licences: vega.LICENSE.
#
#     .dvc/plots.sh    # asks npm for the packages
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
packages=(vega@5.33.1 vega-lite@5.23.0 vega-embed@6.29.0) # of Vega-Lite 5, which DVC's templates are written in
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
for package in "${packages[@]}"; do
  tar xzf "$(npm pack --silent "$package")"
  cat "package/build/${package%@*}.min.js" >> all.js
  echo >> all.js
  rm -r package
done
grep -v '^//# sourceMappingURL=' all.js | gzip -9n | base64 -w 120 > packed
cat > "$here/plots.html" << END
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
{refresh_tag}
<title>render2real: plots</title>
<style>
body { margin: 1.5rem; background: #fff; color: #1d2733; font: 16px/1.5 system-ui, sans-serif; }
img { max-width: 100%; }
table { border-spacing: 15px; }
</style>
<!-- ${packages[*]}, BSD-3-Clause (vega.LICENSE); made by plots.sh -->
<script type="application/gzip" id="vega">
$(cat packed)
</script>
<script>
// DVC's plots call vegaEmbed as the page is read: they wait until it is unpacked.
const waiting = [];
var vegaEmbed = (...call) => { waiting.push(call); };
const packed = Uint8Array.from(atob(document.getElementById("vega").textContent), (letter) => letter.charCodeAt(0));
new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text().then((code) => {
  const script = document.createElement("script");
  script.text = code;
  document.head.append(script);
  waiting.forEach((call) => vegaEmbed(...call));
});
</script>
</head>
<body>
{plot_divs}
</body>
</html>
END
