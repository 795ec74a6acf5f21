'use strict';
// Metrics against a setting of sampling: what `gen_ai.evaluate --axis` measured, a line a run.

const settingsView = { at: 0 };

function settingsKinds() {
  const seen = new Map();
  for (const { metric, setting, fixed } of DATA.settings) {
    seen.set([metric, setting, fixed].join('\u0000'), { metric, setting, fixed });
  }
  return [...seen.values()];
}

function drawSettings() {
  const kind = settingsKinds()[settingsView.at];
  if (!kind) return;
  const shown = new Set(shownRuns());
  const traces = DATA.settings.filter(({ metric, setting, fixed, run }) =>
    metric === kind.metric && setting === kind.setting && fixed === kind.fixed && shown.has(run)).map((curve) => {
    const colour = hue(RUNS[curve.run].group);
    const known = curve.low.every((value) => value !== null) && curve.high.every((value) => value !== null);
    return { uid: `run-${curve.run}`, meta: { run: curve.run }, x: curve.x, y: curve.y, mode: 'lines+markers',
      line: { color: colour, dash: dash(RUNS[curve.run].group), width: 2 }, marker: { color: colour },
      error_y: known ? { type: 'data', symmetric: false, color: faded(colour, 0.6), thickness: 1.2, width: 3,
        array: curve.high.map((high, i) => high - curve.y[i]), arrayminus: curve.low.map((low, i) => curve.y[i] - low) } : {},
      hovertemplate: `<b>${escaped(RUNS[curve.run].label)}</b><br>${escaped(kind.setting)} %{x}<br>${escaped(kind.metric)} %{y:.5g}<extra></extra>` };
  });
  plot($('settings-plot'), traces, { xaxis: axis({ title: kind.setting }), yaxis: axis({ title: kind.metric }) });
}

function startSettings() {
  const kinds = settingsKinds();
  $('settings').hidden = !kinds.length;
  if (!kinds.length) return;
  options($('settings-choice'), kinds.map(({ metric, setting, fixed }, i) =>
    [String(i), `${metric} against ${setting}${fixed ? `, ${fixed}` : ''}`]), '0');
  $('settings-choice').addEventListener('change', () => { settingsView.at = +$('settings-choice').value; drawSettings(); });
  $('settings-note').textContent = 'Bars are 95 % intervals over samples. Each point is one evaluation of the same checkpoint.';
}
