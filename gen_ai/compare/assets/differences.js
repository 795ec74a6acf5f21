'use strict';
// Differences: every group against the baseline in its final value, over runs of the same seed, as the terminal has them.

const DIFFERENCES = DATA.differences;

function signed([mean, bounds]) {
  return [mean === '–' || mean.startsWith('-') ? mean : `+${mean}`, bounds];
}

function differenceRow({ group, matched, interval, better, says }) {
  const [mean, bounds] = matched ? signed(fmtInterval(interval)) : ['no seed matches', ''];
  const [share, range] = fmtInterval({ mean: better[0], low: better[1], high: better[2] });
  const number = (text, small) => el('td', { className: 'num' }, text, el('small', {}, small));
  return linkHover(el('tr', { tabIndex: 0, 'data-group': group },
    el('th', { scope: 'row', className: 'name' }, swatch(group), el('span', {}, GROUPS[group].label)),
    number(fmt(matched), ''), number(mean, bounds), number(share, range), el('td', {}, says)), { group });
}

function drawDifferences() {
  if ($('differences').hidden) return;
  const { name, mode, rows } = DIFFERENCES.metrics[$('difference-metric').value];
  const shown = new Set(shownRuns().map((run) => RUNS[run].group));
  const baseline = GROUPS[DIFFERENCES.baseline].label;
  const heads = ['group', 'matched', `final ${name} minus that of ${baseline}`, `P(better than ${baseline})`, 'in words'];
  const head = el('thead', {}, el('tr', {}, ...heads.map((text, i) => el('th', { scope: 'col', className: i ? '' : 'name' }, text))));
  $('difference-table').replaceChildren(head, el('tbody', {}, ...rows.filter(({ group }) => shown.has(group)).map(differenceRow)));
  $('difference-better').textContent = { min: 'lower is better', max: 'higher is better' }[mode];
}

function startDifferences() {
  $('differences').hidden = GROUPS.length < 2 || !DIFFERENCES.metrics.length;
  if ($('differences').hidden) return;
  options($('difference-metric'), DIFFERENCES.metrics.map(({ name }, i) => [i, name]), 0);
  $('difference-metric').addEventListener('change', drawDifferences);
  $('difference-note').textContent = DIFFERENCES.notes.join(' ');
}
