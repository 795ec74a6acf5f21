'use strict';
// The table: one row a group or a run, only the fields that differ, every metric three ways, what it cost.

const COSTS = {
  wall_seconds: ['wall (s)', (v) => fmt(v, 3), true], compile_seconds: ['compile (s)', (v) => fmt(v, 3), true],
  examples_per_second: ['examples/s', (v) => fmt(v, 3), true], flops: ['FLOPs', fmtSI, false],
  peak_memory_bytes: ['peak memory (MiB)', (v) => fmt(v === null ? null : Math.round(v / 2 ** 20)), true],
  parameters: ['parameters', fmt, false],
};

const OWN = '95% interval of the evaluation, over its samples';

function figureCell(row, metric, kind) {
  const found = row.metrics[metric][kind];
  if (typeof found !== 'object' || found === null) return runCell(row, metric, kind);
  const [mean, bounds] = fmtInterval(found);
  const method = { t: 'Student t', bootstrap: 'bootstrap' }[found.method];
  const line = found.method === 'own' ? `${metric}: ${OWN}` : method ? `${metric}: mean of ${found.n}, 95% interval, ${method}` : metric;
  const few = found.n && found.n < row.runs ? ` n=${found.n}` : '';
  return withStamp(el('td', { className: 'num' }, mean, el('small', {}, bounds + few)), row, metric, mean, line);
}

function runCell(row, metric, kind) {
  const found = row.metrics[metric];
  if (EVALUATED.has(metric)) {
    const [value, bounds] = fmtInterval({ mean: found.final, low: found.low, high: found.high });
    return withStamp(el('td', { className: 'num' }, value, el('small', {}, bounds)), row, metric, value, bounds ? `${metric}: ${OWN}` : metric);
  }
  const step = kind === 'best' && found.best !== null ? found.best_step : null;
  const where = step === null ? null : el('small', { className: 'at' }, `at ${fmt(step)}`);
  return withStamp(el('td', { className: 'num' }, fmt(found[kind]), where), row, metric, fmt(found[kind]), metric);
}

/** A cell with its stamp, where it shows a number. */
function withStamp(cell, row, metric, shown, line) {
  return shown === '–' ? cell : stamped(cell, row.stamps[metric], line);
}

function stateCell(row) {
  if (view.mode === 'run') {
    const left = row.state === 'done' || row.steps === null ? '' : `${fmt(row.step)}/${fmt(row.steps)} steps`;
    const says = row.message ? el('small', { className: 'cut', title: row.message }, row.message) : null;
    return el('td', {}, badge(row.state), left ? el('small', {}, left) : null, says);
  }
  return el('td', {}, ...Object.entries(row.states).map(([state, n]) => badge(state, n)));
}

function nameCell(row, index) {
  const group = view.mode === 'run' ? row.group : index;
  return el('th', { scope: 'row', className: 'name' }, swatch(group), el('span', { title: row.run ?? row.label }, row.label));
}

/** Final values of the main metric of a group as dots, their mean and 95% interval, on the scale of all groups. */
function stripCell(row, index) {
  const [low, high] = stripRange();
  const x = (value) => 4 + 112 * Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
  const { final } = row.metrics[MAIN.name];
  const mark = (shape, attributes) => {
    const node = document.createElementNS('http://www.w3.org/2000/svg', shape);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    return node;
  };
  const svg = mark('svg', { width: 120, height: 18, viewBox: '0 0 120 18', 'aria-hidden': 'true' });
  const values = RUNS.filter((run) => run.group === index && run.counted).map((run) => run.metrics[MAIN.name].final);
  values.filter((value) => value !== null).forEach((value) => svg.append(
    mark('circle', { cx: x(value), cy: 9, r: 2.6, fill: hue(index), opacity: 0.55 })));
  if (final.low !== null) {
    svg.append(mark('line', { x1: x(final.low), x2: x(final.high), y1: 9, y2: 9, stroke: hue(index), 'stroke-width': 1.5 }));
  }
  if (final.mean !== null) {
    svg.append(mark('line', { x1: x(final.mean), x2: x(final.mean), y1: 3, y2: 15, stroke: css('--ink'), 'stroke-width': 2 }));
  }
  return el('td', { className: 'strip' }, svg);
}

function stripRange() {
  const values = RUNS.filter((run) => run.counted).map((run) => run.metrics[MAIN.name].final).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low) * 0.12;
  return [low - room, high + room];
}

function costCell(row, name) {
  const [, write, clock] = COSTS[name];
  const shared = clock && row.lanes > 1 && row.cost[name] !== null;
  const line = shared ? `${COSTS[name][0]}: shared, ${row.lanes} runs were lanes of one program` : COSTS[name][0];
  const cell = el('td', { className: 'num' }, write(row.cost[name]), shared ? el('sup', {}, '*') : null);
  return row.cost[name] === null ? cell : stamped(cell, row.clock, line);
}

/** Columns of the mode: {key, top (heading over several), head, value (to sort by), cell}. */
function columns() {
  const group = view.mode === 'group';
  const list = [
    { key: 'label', top: '', head: group ? 'group' : 'run', value: (_, i) => i, cell: nameCell },
    { key: 'state', top: '', head: group ? 'runs' : 'state', cell: stateCell,
      value: (row) => (group ? row.runs : row.state) },
  ];
  for (const field of DATA.fields.filter((f) => !group || !f.seed)) {
    const value = (row) => row.values[field.column];
    list.push({ key: field.column, top: 'what differs', head: field.label, value, cell: (row) =>
      el('td', { className: typeof value(row) === 'number' ? 'num' : 'text', title: plainValue(value(row)) },
        plainValue(value(row))) });
  }
  for (const { name, mode, given } of DATA.metrics) {
    const better = { min: 'lower is better', max: 'higher is better' }[mode];
    const top = given ? [name, better && `(${better})`].filter(Boolean).join(' ') : 'other evaluations';
    for (const kind of kindsOf(name)) {
      const value = (row) => (group ? row.metrics[name][kind].mean : row.metrics[name][kind]);
      const head = given ? KINDS[kind] : `${name}${mode ? ` (${mode})` : ''}`;
      list.push({ key: `${kind}/${name}`, top, head, value, cell: (row) => figureCell(row, name, kind) });
    }
    if (group && name === MAIN.name && RUNS.some((run) => run.counted && run.metrics[name].final !== null)) {
      list.push({ key: 'strip', top, head: 'final: seeds, mean, 95%', cell: stripCell });
    }
  }
  for (const [name, [head]] of Object.entries(COSTS)) {
    if (RUNS.some((run) => run.cost[name] !== null)) {
      list.push({ key: name, top: group ? 'cost (mean of a run)' : 'cost', head, value: (row) => row.cost[name],
        cell: (row) => costCell(row, name) });
    }
  }
  return list;
}

function compare(a, b) {
  const [none, other] = [a === null || a === undefined, b === null || b === undefined];
  if (none || other) return none - other;
  const order = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
  return order * view.sort.dir;
}

/** Indices of the rows of the mode, filtered and sorted; what has no value comes last. */
function tableOrder(shown) {
  const rows = view.mode === 'group' ? GROUPS : RUNS;
  const kept = view.mode === 'group' ? [...new Set(shown.map((i) => RUNS[i].group))].sort((a, b) => a - b) : shown;
  const column = columns().find((c) => c.key === view.sort.key && c.value);
  return column ? [...kept].sort((a, b) => compare(column.value(rows[a], a), column.value(rows[b], b))) : kept;
}

/** Shown runs in the order of the table, for the sections below it. */
function runsInOrder() {
  const shown = shownRuns();
  if (view.mode === 'run') return tableOrder(shown);
  const places = tableOrder(shown);
  return [...shown].sort((a, b) => places.indexOf(RUNS[a].group) - places.indexOf(RUNS[b].group) || a - b);
}

function headRows(list) {
  const tops = [];
  for (const column of list) {
    if (tops.length && tops.at(-1).top === column.top) tops.at(-1).span += 1;
    else tops.push({ top: column.top, span: 1 });
  }
  const starts = list.filter((column, i) => i && column.top !== list[i - 1].top);
  const heads = list.map((column) => {
    const sorted = column.key === view.sort.key;
    const node = el('th', { scope: 'col', className: column.key === 'label' ? 'name' : '' });
    if (starts.includes(column)) node.classList.add('start');
    if (!column.value) {
      node.append(column.head);
      return node;
    }
    node.setAttribute('aria-sort', sorted ? (view.sort.dir > 0 ? 'ascending' : 'descending') : 'none');
    const button = el('button', { type: 'button', 'data-key': column.key }, column.head);
    button.addEventListener('click', () => sortBy(column.key));
    node.append(button);
    return node;
  });
  const over = tops.map(({ top, span }, i) => el('th', { colSpan: span, scope: 'colgroup', className: i ? 'start' : 'name' }, top));
  return el('thead', {}, el('tr', { className: 'tops' }, ...over), el('tr', {}, ...heads));
}

function sortBy(key) {
  view.sort = { key, dir: view.sort.key === key ? -view.sort.dir : 1 };
  changed();
  document.querySelector(`#table button[data-key="${CSS.escape(key)}"]`).focus();
}

function drawTable() {
  hideTip();
  const shown = shownRuns();
  const list = columns();
  const rows = view.mode === 'group' ? GROUPS : RUNS;
  const starts = new Set(list.filter((column, i) => i && column.top !== list[i - 1].top).map((column) => column.key));
  const body = tableOrder(shown).map((index) => {
    const cells = list.map((column) => {
      const cell = column.cell(rows[index], index);
      if (starts.has(column.key)) cell.classList.add('start');
      return cell;
    });
    const node = el('tr', { tabIndex: 0, [`data-${view.mode}`]: index }, ...cells);
    return linkHover(node, { [view.mode]: index });
  });
  const empty = el('tr', {}, el('td', { colSpan: list.length, className: 'dim' }, 'Nothing passes the filter.'));
  $('table').replaceChildren(headRows(list), el('tbody', {}, ...(body.length ? body : [empty])));
  $('count').textContent = shown.length === RUNS.length ? `${RUNS.length} runs` : `${shown.length} of ${RUNS.length} runs`;
}

function startTable() {
  const states = [...new Set(RUNS.map((run) => run.state))].sort();
  view.states = new Set(states);
  switcher($('mode'), { group: 'groups', run: 'runs' }, view.mode, (mode) => {
    view.mode = mode;
    changed();
  });
  $('filter').addEventListener('input', (event) => {
    view.words = event.target.value;
    changed();
  });
  $('states').replaceChildren(...states.map((state) => {
    const box = el('input', { type: 'checkbox', checked: true, value: state });
    box.addEventListener('change', () => {
      view.states[box.checked ? 'add' : 'delete'](state);
      changed();
    });
    return el('label', {}, box, ' ', badge(state, RUNS.filter((run) => run.state === state).length));
  }));
  const shared = RUNS.some((run) => run.lanes > 1)
    ? ' * Several runs were lanes of one program: its wall seconds, compile seconds and peak memory are shared by all of them.' : '';
  const lost = RUNS.some((run) => run.state === 'diverged') ? ' A diverged run has no final figure; its best one is shown.' : '';
  const training = EVALUATED.size < DATA.metrics.length
    ? `Final: last evaluation. Last ${DATA.last_k}: mean of the last ${DATA.last_k} evaluations. Best: over all evaluations, which is optimistic. ` : '';
  const own = EVALUATED.size ? ' One run alone has the interval of its evaluation, over its samples.' : '';
  $('table-note').textContent = `${training}In brackets: 95% interval of a group's mean, which counts the runs that reached their step budget.${own}${lost}${shared} `
    + 'Point at a number, or go to it with the arrow keys, to see how it came about.';
  $('same').hidden = !DATA.same.length;
  $('same').querySelector('summary').textContent = `${DATA.same.length} fields that are the same in all runs`;
  $('same').querySelector('dl').replaceChildren(...DATA.same.map(([name, value]) =>
    el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}
