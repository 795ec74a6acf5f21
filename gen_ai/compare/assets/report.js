'use strict';
// Starts the page: the head, the sections in order, the colours that follow the system.

function startHead() {
  const groups = GROUPS.length < RUNS.length ? ` in ${GROUPS.length} groups` : '';
  const methods = [...new Set(RUNS.map((run) => run.method))];
  const metrics = DATA.metrics.filter(({ given }) => given).map(({ name, mode }) => (mode ? `${name} (${mode})` : name)).join(', ');
  $('what').textContent = `${methods.join(', ')}: ${RUNS.length} runs${groups}, compared by ${metrics}. Made ${DATA.made}.`;
  $('protocol').replaceChildren(...DATA.protocol.map(([name, value]) =>
    el('div', { className: value.startsWith('differs') ? 'differs' : '' }, el('dt', {}, name), el('dd', {}, value))));
  $('warnings').hidden = !DATA.warnings.length;
  $('warnings').replaceChildren(...DATA.warnings.map((line) => el('p', {}, line)));
  const sections = [...document.querySelectorAll('main > section')].filter((section) => !section.hidden);
  document.querySelector('nav').replaceChildren(...sections.map((section) =>
    el('a', { href: `#${section.id}` }, section.querySelector('h2').textContent)));
}

function origin(run, index) {
  const pairs = run.about.map(([name, value]) => {
    const code = ['reproduce', 'started as', 'directory'].includes(name);
    return el('div', {}, el('dt', {}, name), el('dd', {}, code ? el('code', {}, value) : value));
  });
  return linkHover(el('details', { 'data-run': index }, el('summary', {}, swatch(run.group), run.label, ' ', badge(run.state)),
    el('dl', { className: 'pairs' }, ...pairs)), { run: index });
}

function drawOrigins() {
  const open = new Set([...document.querySelectorAll('#origins details[open]')].map((node) => node.dataset.run));
  $('origins').replaceChildren(...runsInOrder().map((index) => origin(RUNS[index], index)));
  document.querySelectorAll('#origins details').forEach((node) => { node.open = open.has(node.dataset.run); });
}

function drawAll() {
  listeners.forEach((listener) => listener());
}

startStamps();
startTable();
startDifferences();
startQuality();
startCurves();
startSettings();
startFields();
startBudget();
startSamples();
listeners.push(drawTable, drawLegend, drawDifferences, drawCurves, drawSettings, drawQuality, drawFields, drawBudget, drawSamples, drawOrigins);
drawAll();
startHead();
$('foot').textContent = 'One file, nothing loaded from a network. Plots: plotly.js, MIT licence.';
dark.addEventListener('change', drawAll);
