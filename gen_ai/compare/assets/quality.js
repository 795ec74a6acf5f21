'use strict';
// Quality against cost: a metric over what its training took, with the Pareto front: what nothing else beats in both.

// Lanes of one program share its clock, so that seconds tell nothing of one of them: where there are lanes, they come last.
const SHARED = RUNS.some((run) => run.lanes > 1);
const PRICES = SHARED ? { flops: 'training FLOPs', examples: 'examples seen', wall_seconds: 'wall time, shared by lanes (s)' } : { wall_seconds: 'wall time (s)', flops: 'training FLOPs', examples: 'examples seen' };
const UNITS = { wall_seconds: 's', flops: 'FLOPs', examples: 'examples' };
const ORDERED = DATA.metrics.filter(({ mode }) => mode);
const qualityView = { metric: (ORDERED.find(({ name }) => name === MAIN.name) ?? ORDERED[0] ?? MAIN).name, price: '' };

/** {uid, meta, label, x, y, low, high, hue, lost} of a run or of a group; null where it has no figure or no cost. */
function qualityPoint(kind, index) {
  const row = kind === 'run' ? RUNS[index] : GROUPS[index];
  const told = row.metrics[qualityView.metric];
  const { mean, low, high } = kind === 'run' ? { mean: told.final, low: told.low ?? null, high: told.high ?? null } : told.final;
  const x = row.cost[qualityView.price];
  if (mean === null || x === null || x === undefined) return null;
  return { uid: `${kind}-${index}`, meta: { [kind]: index }, label: row.label, x, y: mean, low, high,
    group: kind === 'run' ? row.group : index, lost: kind === 'run' && TROUBLED.has(row.state) };
}

/** The points that no other one beats in cost and quality, from the cheapest on. */
function paretoFront(points, mode) {
  const sign = mode === 'min' ? 1 : -1;
  const front = [];
  const ordered = points.filter(({ lost }) => !lost).sort((a, b) => a.x - b.x || sign * (a.y - b.y));
  for (const point of ordered) if (!front.length || sign * (point.y - front.at(-1).y) < 0) front.push(point);
  return front;
}

/** What is drawn: groups with their runs as small dots, or runs alone. */
function qualityPoints() {
  const runs = shownRuns();
  const groups = [...new Set(runs.map((run) => RUNS[run].group))].sort((a, b) => a - b);
  const grouped = view.mode === 'group';
  const main = grouped ? groups.map((group) => qualityPoint('group', group)) : runs.map((run) => qualityPoint('run', run));
  const seeds = grouped ? runs.filter((run) => RUNS[run].counted && GROUPS[RUNS[run].group].runs > 1) : [];
  return { main: main.filter(Boolean), without: main.filter((point) => !point).length,
    seeds: seeds.map((run) => qualityPoint('run', run)).filter(Boolean) };
}

/** Bars from low to high; on a log axis they end above 0. */
function whiskers(point, log, colour) {
  if (point.low === null) return {};
  const low = log ? Math.max(point.low, point.y / 100) : point.low;
  return { error_y: { type: 'data', symmetric: false, array: [point.high - point.y], arrayminus: [point.y - low], color: colour,
    thickness: 1.5, width: 4 } };
}

function qualityTrace(point, { on, log }) {
  const colour = hue(point.group);
  const [mean, bounds] = fmtInterval({ mean: point.y, low: point.low, high: point.high });
  const text = `<b>${escaped(point.label)}</b>${on ? ' · on the front' : ''}<br>${escaped(qualityView.metric)} ${mean} ${bounds}<br>`
    + `for ${priceText(point.x)}<extra></extra>`;
  const line = on ? { width: 2, color: css('--ink') } : { width: 0, color: colour };
  return { uid: point.uid, meta: point.meta, x: [point.x], y: [point.y], mode: 'markers', hovertemplate: text, customdata: [on],
    marker: { color: colour, size: on ? 13 : 9, opacity: on ? 1 : 0.7, symbol: point.lost ? 'x' : 'circle', line }, ...whiskers(point, log, colour) };
}

function seedTrace(point) {
  return { uid: point.uid, meta: point.meta, x: [point.x], y: [point.y], mode: 'markers', hovertemplate:
    `<b>${escaped(point.label)}</b><br>${escaped(qualityView.metric)} %{y:.5g}<br>for ${priceText(point.x)}<extra></extra>`,
  marker: { color: hue(point.group), size: 5, opacity: 0.5 } };
}

function priceText(value) {
  return `${qualityView.price === 'wall_seconds' ? fmt(value, 3) : fmtSI(value)} ${UNITS[qualityView.price]}`;
}

function drawQuality() {
  if ($('quality').hidden) return;
  const { mode } = ORDERED.find(({ name }) => name === qualityView.metric);
  const { main, seeds, without } = qualityPoints();
  const front = paretoFront(main, mode);
  const all = [...main, ...seeds];
  const log = spansDecades(all.map(({ y }) => y));
  const last = Math.max(...all.map(({ x }) => x));
  const line = { uid: 'front', x: [...front.map(({ x }) => x), last], y: [...front.map(({ y }) => y), front.at(-1)?.y], mode: 'lines', hoverinfo: 'skip',
    line: { shape: 'hv', color: css('--dim'), width: 1.6, dash: 'dash' } };
  const marks = main.map((point) => qualityTrace(point, { on: front.includes(point), log }));
  marks.sort((a, b) => a.customdata[0] - b.customdata[0]);
  const xaxis = axis({ title: PRICES[qualityView.price], type: spansDecades(all.map(({ x }) => x)) ? 'log' : 'linear', exponentformat: 'SI' });
  const yaxis = axis({ title: `${qualityView.metric}, ${mode === 'min' ? 'lower' : 'higher'} is better`, type: log ? 'log' : 'linear' });
  $('quality-front').replaceChildren(...frontList(front));
  const what = `${view.mode}${without === 1 ? '' : 's'}`;
  $('quality-without').textContent = without ? `not drawn: ${without} ${what} without this figure or this cost` : '';
  plot($('quality-plot'), [...(front.length ? [line] : []), ...seeds.map(seedTrace), ...marks], { height: 360, xaxis, yaxis });
}

/** The members of the front in words, from the cheapest to the best. */
function frontList(front) {
  return front.map((point) => {
    const [mean, bounds] = fmtInterval({ mean: point.y, low: point.low, high: point.high });
    const target = Object.fromEntries(Object.entries(point.meta).map(([kind, index]) => [`data-${kind}`, index]));
    return linkHover(el('li', { tabIndex: 0, ...target }, swatch(point.group), el('span', {}, point.label),
      el('b', {}, mean), el('small', {}, `for ${priceText(point.x)}`), el('small', {}, bounds)), point.meta);
  });
}

function startQuality() {
  const prices = Object.entries(PRICES).filter(([key]) => RUNS.some((run) => (run.cost[key] ?? null) !== null));
  $('quality').hidden = !prices.length || !ORDERED.length;
  if ($('quality').hidden) return;
  [[qualityView.price]] = prices;
  options($('quality-metric'), ORDERED.map(({ name }) => [name, name]), qualityView.metric);
  options($('quality-price'), prices, qualityView.price);
  $('quality-metric').addEventListener('change', () => { qualityView.metric = $('quality-metric').value; drawQuality(); });
  $('quality-price').addEventListener('change', () => { qualityView.price = $('quality-price').value; drawQuality(); });
  const shared = SHARED ? ' Lanes of one program share its clock: compare them by FLOPs or examples.' : '';
  const unlike = DATA.fields.some(({ column }) => column === 'devices') ? ' These runs had unlike devices, so their seconds do not compare.' : '';
  $('quality-note').textContent = 'Ringed: the Pareto front, which no other one shown beats in both quality and cost; the dashed line is the best to be had for that cost. '
    + `Whiskers: 95% interval, of a group over its seeds, of a run over the samples of its evaluation. The cost is that of the whole training.${shared}${unlike}`;
}
