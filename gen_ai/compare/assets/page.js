'use strict';
// What all sections share: the data, how numbers are written, which runs are shown, and what is highlighted.

const DATA = JSON.parse(document.getElementById('data').textContent);
const RUNS = DATA.runs;
const GROUPS = DATA.groups;
const MAIN = DATA.metrics[0];
const KINDS = { final: 'final', last_k: `last ${DATA.last_k}`, best: 'best' };
const EVALUATED = new Set(DATA.metrics.filter(({ evaluated }) => evaluated).map(({ name }) => name));
const TROUBLED = new Set(['diverged', 'failed', 'pruned', 'lost']);
const dark = window.matchMedia('(prefers-color-scheme: dark)');

// Okabe and Ito, "Color universal design" (2008); black is the ink of the page, yellow is left out: it vanishes on white.
const HUES = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9'];
const DARK_HUES = ['#3b9fdc', '#e69f00', '#19b98c', '#d98bb5', '#e8742a', '#8ccbf0'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot'];

const view = { mode: GROUPS.length < RUNS.length ? 'group' : 'run', words: '', states: null, hidden: new Set(),
  brushed: null, sort: { key: '', dir: 1 } };
const listeners = [];

const $ = (id) => document.getElementById(id);

/** An element with properties (data-, aria- and role as attributes) and children; text is never read as HTML. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(data|aria)-|^(role|for|style)$/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The kinds of figure a metric has: an evaluation is made once, so it has no last k and no best of many; without a
 * direction there is no best. */
function kindsOf(metric) {
  const { mode } = DATA.metrics.find(({ name }) => name === metric);
  return EVALUATED.has(metric) ? ['final'] : Object.keys(KINDS).filter((kind) => mode || kind !== 'best');
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function hue(group) {
  const hues = [...(dark.matches ? DARK_HUES : HUES), css('--ink')];
  return hues[group % hues.length];
}

function dash(group) {
  return DASHES[Math.floor(group / (HUES.length + 1)) % DASHES.length];
}

/** A short line in the colour and dash of a group. */
function swatch(group) {
  const style = { solid: 'solid', dash: 'dashed', dot: 'dotted', dashdot: 'double' }[dash(group)];
  return el('i', { className: 'swatch', style: `border-top: 3px ${style} ${hue(group)}`, 'aria-hidden': 'true' });
}

/** A number with about `digits` significant digits. */
function fmt(value, digits = 4) {
  if (value === null || value === undefined) return '–';
  if (typeof value !== 'number') return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return grouped(value, 0);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(Math.max(digits - 2, 1)).replace('e+', 'e');
  const decimals = size === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return grouped(value, decimals);
}

function grouped(value, decimals) {
  return value.toLocaleString('en-US', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** A swept value as it was typed: 0.0001 and 1e-5, never 1.0000e-4. */
function plainValue(value) {
  return typeof value === 'number' ? String(value) : fmt(value);
}

/** Mean and bounds with the decimals that the width of the interval deserves. */
function fmtInterval({ mean, low, high }) {
  if (mean === null) return ['–', ''];
  if (low === null) return [fmt(mean), ''];
  const half = (high - low) / 2;
  const size = Math.max(Math.abs(mean), Math.abs(low), Math.abs(high));
  if (size >= 1e7 || size < 1e-3 || half === 0) return [fmt(mean), `[${fmt(low, 3)}, ${fmt(high, 3)}]`];
  const decimals = Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(half))));
  return [grouped(mean, decimals), `[${grouped(low, decimals)}, ${grouped(high, decimals)}]`];
}

/** 1.23 T and so on, for floating-point operations. */
function fmtSI(value) {
  if (value === null) return '–';
  const units = ['', 'k', 'M', 'G', 'T', 'P', 'E', 'Z'];
  const power = value > 0 ? Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(value) / 3))) : 0;
  return `${fmt(value / 1000 ** power, 3)} ${units[power]}`.trim();
}

function badge(state, count = '') {
  return el('span', { className: `badge ${state}` }, count ? `${count} ${state}` : state);
}

// The filter: words that all have to be found, and comparisons such as lr>=0.001 or state=done.

const CLAUSE = /^([\w./ %-]+?)(<=|>=|!=|=|<|>)(.+)$/;

function facts(run) {
  const found = { state: run.state, step: run.step, run: run.run, method: run.method, group: GROUPS[run.group].label };
  for (const field of DATA.fields) found[field.label] = found[field.short] = run.values[field.column];
  for (const { name } of DATA.metrics) found[name] = run.metrics[name].final;
  return Object.assign(found, run.cost);
}

function matches(run, words) {
  const known = facts(run);
  const hay = [run.label, run.run, run.state, run.message, ...Object.values(run.values)].join(' ').toLowerCase();
  return words.every((word) => {
    const clause = CLAUSE.exec(word);
    if (!clause || !(clause[1] in known)) return hay.includes(word.toLowerCase());
    const [, name, op, text] = clause;
    const value = known[name];
    const number = typeof value === 'number' && text.trim() !== '' ? Number(text) : NaN;
    const [a, b] = Number.isNaN(number) ? [String(value ?? ''), text] : [value, number];
    if (op === '=') return a === b;
    if (op === '!=') return a !== b;
    if (value === null || value === undefined) return false;
    return { '<': a < b, '>': a > b, '<=': a <= b, '>=': a >= b }[op];
  });
}

const SEEDS = DATA.fields.filter((field) => field.seed).map((field) => field.column);

/** By group, then by seed: the order of the table until it is sorted. */
function inOrder(a, b) {
  const differ = SEEDS.map((seed) => RUNS[a].values[seed] - RUNS[b].values[seed]).find((difference) => difference);
  return RUNS[a].group - RUNS[b].group || differ || a - b;
}

/** Indices of the runs that pass filter, states, hidden groups and brush. Every section shows these. */
function shownRuns() {
  const words = view.words.split(/\s+/).filter(Boolean);
  return RUNS.map((_, i) => i).filter((i) => view.states.has(RUNS[i].state) && !view.hidden.has(RUNS[i].group)
    && (!view.brushed || view.brushed.has(i)) && matches(RUNS[i], words)).sort(inOrder);
}

let pending = 0;

/** Shows the table at once and the rest, which takes longer, when typing pauses. */
function changed() {
  listeners[0]();
  clearTimeout(pending);
  pending = setTimeout(() => listeners.slice(1).forEach((listener) => listener()), 120);
}

// Highlight: {run: index}, {group: index} or null, from a row, a curve, a legend entry or a picture, on all of them.

let lit = null;

function isLit(run) {
  return lit && ('run' in lit ? lit.run === run : lit.group === RUNS[run].group);
}

function highlight(target) {
  lit = target;
  for (const node of document.querySelectorAll('[data-run], [data-group]')) {
    const { run, group } = node.dataset;
    const hot = lit && (run !== undefined ? isLit(+run) : (lit.group ?? RUNS[lit.run].group) === +group);
    node.classList.toggle('hot', Boolean(hot));
  }
  document.querySelectorAll('.js-plotly-plot').forEach(light);
}

/** Marks the traces of what is highlighted in one plot; their uid is run-3, group-1, band-1. */
function light(plot) {
  plot.classList.toggle('dimmed', Boolean(lit));
  plot.classList.toggle('single', Boolean(lit && 'run' in lit));
  for (const node of plot.querySelectorAll('.scatterlayer .trace')) {
    const [kind, index] = (/trace(run|group|band)-(\d+)/.exec(node.getAttribute('class')) || []).slice(1);
    const hot = lit && kind && (kind === 'run' ? isLit(+index) : lit.group === +index);
    node.classList.toggle('hot', Boolean(hot));
  }
}

function linkHover(node, target) {
  node.addEventListener('mouseenter', () => highlight(target));
  node.addEventListener('mouseleave', () => highlight(null));
  node.addEventListener('focusin', () => highlight(target));
  node.addEventListener('focusout', () => highlight(null));
  return node;
}

/** A row of buttons of which one is pressed. */
function switcher(box, options, pressed, choose) {
  const buttons = Object.entries(options).map(([value, label]) => {
    const button = el('button', { type: 'button', 'data-value': value, 'aria-pressed': String(value === pressed) }, label);
    button.addEventListener('click', () => {
      buttons.forEach((other) => other.setAttribute('aria-pressed', String(other === button)));
      choose(value);
    });
    return button;
  });
  box.replaceChildren(...buttons);
}

function options(select, pairs, value) {
  select.replaceChildren(...pairs.map(([key, label]) => el('option', { value: key, selected: key === value }, label)));
}
