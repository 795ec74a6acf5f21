'use strict';
// Samples: one slider for all runs, and two of them flipped in place.

const VIEWS = DATA.samples.views;
const RULE = /\n-{40}\n/; // between the texts of one file
const sampleView = { view: Object.keys(VIEWS)[0], mode: 'one', at: 0, picked: [], side: 0 };

function isText() {
  return VIEWS[sampleView.view].kind === 'txt';
}

/** {step, content} of a run at the slider: the last one drawn up to that step; null where there is none yet. */
function sampleOf(run, step) {
  const files = VIEWS[sampleView.view].runs[run];
  const steps = files ? Object.keys(files).map(Number).filter((s) => s <= step) : [];
  if (!steps.length) return null;
  const last = Math.max(...steps);
  return { step: last, content: files[last] };
}

function currentStep() {
  return VIEWS[sampleView.view].steps[sampleView.at];
}

function picture(run, found) {
  if (isText()) return el('pre', { tabIndex: 0 }, ...found.content.trimEnd().split(RULE).map((text) => el('div', {}, text)));
  return el('img', { src: found.content, alt: altOf(run, found), loading: 'lazy', decoding: 'async' });
}

/** What the rows of a picture of classes are, from the top; '' of other pictures and where no names are recorded. */
function rowsOf(run) {
  const names = VIEWS[sampleView.view].rows?.[run];
  return names ? `rows, from the top: ${names.join(', ')}` : '';
}

function altOf(run, found) {
  const rows = rowsOf(run);
  return `${sampleView.view} of ${RUNS[run].label} at step ${found.step}${rows ? `; ${rows}` : ''}`;
}

function pick(run) {
  const { picked } = sampleView;
  sampleView.picked = picked.includes(run) ? picked.filter((other) => other !== run) : [...picked.slice(-1), run];
  sampleView.side = 0;
  drawSamples();
  if (sampleView.picked.length === 2) $('flip').querySelector('.flip').focus({ preventScroll: true });
}

function pickButton(run, ...inside) {
  const place = sampleView.picked.indexOf(run);
  const button = el('button', { type: 'button', className: 'pick', 'aria-pressed': String(place >= 0), 'data-pick': run,
    'aria-label': `pick ${RUNS[run].label} to flip`, title: 'pick two runs to flip them in place' }, ...inside);
  if (place >= 0) button.append(el('b', { className: 'side' }, 'AB'[place]));
  button.addEventListener('click', () => pick(run));
  return button;
}

/** Whether the view is what an evaluation left, of the split it names: 'closest_pairs, test'. */
function evaluatedSplit() {
  return sampleView.view.includes(', ') ? sampleView.view.split(', ').at(-1) : null;
}

/** The figures of memorisation of a run on the split of the view. */
function copyFigures(run) {
  const split = evaluatedSplit();
  return split === null ? [] : DATA.metrics.filter(({ name, copies }) => copies && name.startsWith(`${split}/`))
    .map(({ name }) => [name.slice(split.length + 1), RUNS[run].metrics[name].final]).filter(([, value]) => value !== null);
}

function caption(run, found) {
  const late = found && found.step < currentStep() ? el('small', {}, `at ${fmt(found.step)}`) : null;
  return el('figcaption', {}, swatch(RUNS[run].group), el('span', { title: RUNS[run].run }, RUNS[run].label),
    TROUBLED.has(RUNS[run].state) ? badge(RUNS[run].state) : null, late);
}

function tile(run) {
  const found = sampleOf(run, currentStep());
  const none = el('p', { className: 'none' }, 'nothing drawn yet');
  const body = !found ? [none] : isText() ? [picture(run, found), pickButton(run, 'pick to flip')] : [pickButton(run, picture(run, found))];
  const told = rowsOf(run) || copyFigures(run).map(([name, value]) => `${name} ${fmt(value, 3)}`).join(' · ');
  return linkHover(el('figure', { className: 'tile', 'data-run': run }, caption(run, found), ...body, told ? el('p', { className: 'copies' }, told) : null), { run });
}

/** One row a run, one column a step. */
function strip(run) {
  const cells = VIEWS[sampleView.view].steps.map((step, at) => {
    const found = sampleOf(run, step);
    const now = at === sampleView.at ? ' now' : '';
    if (!found || found.step !== step) return el('div', { className: `frame${now}` });
    const button = pickButton(run, picture(run, found));
    button.addEventListener('click', () => { sampleView.at = at; drawSamples(); });
    return el('div', { className: `frame${now}` }, button);
  });
  const name = el('div', { className: 'frame-name' }, caption(run, null));
  return linkHover(el('div', { className: 'frames', 'data-run': run }, name, ...cells), { run });
}

function stripHead() {
  const heads = VIEWS[sampleView.view].steps.map((step, at) => el('div', { className: `frame${at === sampleView.at ? ' now' : ''}` }, fmt(step)));
  return el('div', { className: 'frames heads' }, el('div', { className: 'frame-name' }, 'step'), ...heads);
}

function drawFlip() {
  const { picked, side } = sampleView;
  $('flip').hidden = picked.length < 2;
  if (picked.length < 2) return;
  const run = picked[side];
  const found = sampleOf(run, currentStep());
  const had = document.activeElement?.classList.contains('flip');
  const button = el('button', { type: 'button', className: 'flip', 'aria-label': `flip: now ${'AB'[side]}, ${RUNS[run].label}` },
    found ? picture(run, found) : el('p', { className: 'none' }, 'nothing drawn yet'));
  button.addEventListener('click', () => {
    sampleView.side = 1 - sampleView.side;
    drawFlip();
  });
  const close = el('button', { type: 'button', className: 'quiet', 'aria-label': 'close the flip view' }, '×');
  close.addEventListener('click', () => {
    sampleView.picked = [];
    drawSamples();
  });
  const names = picked.map((other, i) => el('span', { className: i === side ? 'on' : '' }, el('b', {}, 'AB'[i]), swatch(RUNS[other].group), RUNS[other].label));
  $('flip').replaceChildren(el('div', { className: 'flip-head' }, ...names, close), button,
    el('p', { className: 'note' }, `step ${fmt(found ? found.step : currentStep())} · click the ${isText() ? 'text' : 'picture'}, or press space, to flip`));
  if (had) button.focus({ preventScroll: true });
}

function drawSamples() {
  if (!sampleView.view) return;
  const { steps } = VIEWS[sampleView.view];
  const strips = sampleView.mode === 'all' && !isText();
  const runs = runsInOrder().filter((run) => VIEWS[sampleView.view].runs[run]);
  $('sample-step').max = steps.length - 1;
  $('sample-step').value = sampleView.at;
  $('sample-step').setAttribute('aria-valuetext', `step ${currentStep()}`);
  $('step-out').textContent = `${fmt(currentStep())} of ${fmt(steps.at(-1))}`;
  $('sample-mode').hidden = isText();
  $('tiles').className = strips ? 'scroll strips' : `tiles ${isText() ? 'txt' : 'png'} ${evaluatedSplit() === null ? '' : 'evaluated'}`;
  $('noise').textContent = evaluatedSplit() === null ? noiseNote() : evaluationNote();
  $('tiles').replaceChildren(...(strips ? [stripHead(), ...runs.map(strip)] : runs.map(tile)));
  drawFlip();
}

/** Moves the slider without building the pictures anew, so that they do not flicker. */
function moveSamples() {
  if (sampleView.mode === 'all') return drawSamples();
  $('sample-step').setAttribute('aria-valuetext', `step ${currentStep()}`);
  $('step-out').textContent = `${fmt(currentStep())} of ${fmt(VIEWS[sampleView.view].steps.at(-1))}`;
  for (const node of $('tiles').children) {
    const run = Number(node.dataset.run);
    const found = sampleOf(run, currentStep());
    const image = node.querySelector('img');
    if (!found || !image) node.replaceWith(tile(run));
    else {
      image.src = found.content;
      image.alt = altOf(run, found);
      node.querySelector('figcaption').replaceWith(caption(run, found));
    }
  }
  return drawFlip();
}

function noiseNote() {
  const noise = DATA.noise.length === 1
    ? `All runs of one shape are drawn with the same fixed noise (config.eval.seed = ${DATA.noise[0]}), so the same place shows the same draw.`
    : `The noise differs between runs (config.eval.seed = ${DATA.noise.join(', ')}): the same place shows another draw.`;
  return `${noise} Pick two runs to flip them in place. ${DATA.samples.note}`;
}

function evaluationNote() {
  const pairs = sampleView.view.startsWith('closest_pairs') ? 'Above: samples; below each: the training image it is closest to. ' : '';
  return `From the evaluation on the ${evaluatedSplit()} split, which looks for samples that copy the training data. ${pairs}`
    + `Pick two runs to flip them in place. ${DATA.samples.note}`;
}

function startSamples() {
  const names = Object.keys(VIEWS);
  $('samples').hidden = !names.length;
  if (!names.length) return;
  options($('sample-view'), names.map((name) => [name, name.replace(/_/g, ' ')]), sampleView.view);
  sampleView.at = VIEWS[sampleView.view].steps.length - 1;
  switcher($('sample-mode'), { one: 'one step', all: 'all steps' }, 'one', (mode) => {
    sampleView.mode = mode;
    drawSamples();
  });
  $('sample-view').addEventListener('change', () => {
    const step = currentStep();
    sampleView.view = $('sample-view').value;
    const steps = VIEWS[sampleView.view].steps;
    sampleView.at = Math.max(0, steps.findLastIndex((other) => other <= step));
    drawSamples();
  });
  $('sample-step').addEventListener('input', () => {
    sampleView.at = Number($('sample-step').value);
    moveSamples();
  });
}
