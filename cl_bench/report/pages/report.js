'use strict';

// Tables: a click on a heading sorts by it, a second one the other way round; gaps stay below.

function valueOf(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  if (text === '' || text === '-') return null;
  const number = /^[-+]?\d+(\.\d+)?(?=$| to )/.exec(text); // of an interval its lower end
  return number ? Number(number[0]) : text;
}

function compare(a, b) {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  if (typeof a !== typeof b) return typeof a === 'number' ? -1 : 1;
  return a.localeCompare(b, 'en', { numeric: true });
}

function sort(head) {
  const place = head.cellIndex, body = head.closest('table').tBodies[0];
  // Numbers are wanted from the top, words from A.
  const first = head.classList.contains('n') ? 'descending' : 'ascending';
  const other = first === 'ascending' ? 'descending' : 'ascending';
  const order = head.getAttribute('aria-sort') === first ? other : first;
  for (const each of head.parentNode.cells) each.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', order);
  const rows = [...body.rows].map((row) => [valueOf(row.cells[place]), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return order === 'ascending' ? compare(a, b) : compare(b, a);
  });
  body.append(...rows.map(([, row]) => row));
}

for (const button of document.querySelectorAll('thead button')) {
  button.addEventListener('click', () => sort(button.parentNode));
}

// A link to a section that is closed opens it.

function openTarget() {
  const section = document.getElementById(location.hash.slice(1));
  const details = section && section.querySelector('details');
  if (details) details.open = true;
}
addEventListener('hashchange', openTarget);
openTarget();

// Documents. Text only ever becomes text: nothing that a model wrote is read as HTML.

const PAGE = 25, JUST_LEARNED = 'own';
const CHANGES = {
  worse: 'right then, wrong now',
  better: 'wrong then, right now',
  other: 'same score, another answer',
  same: 'the same answer',
  unknown: 'not comparable',
};

function browse(data) {
  const $ = (name) => document.getElementById(name);
  const text = (number) => data.texts[number];
  let shown = PAGE;

  function element(name, content, kind) {
    const made = document.createElement(name);
    if (content !== undefined) made.textContent = content;
    if (kind) made.className = kind;
    return made;
  }

  function fill(select, options, wanted) {
    const values = options.map(([value]) => String(value));
    const before = wanted !== undefined ? String(wanted) : select.value;
    select.replaceChildren(...options.map(([value, words]) => {
      const option = element('option', words);
      option.value = value;
      return option;
    }));
    select.value = values.includes(before) ? before : values[0] || '';
  }

  const experiment = () => data.experiments[Number($('experiment').value)];

  function fillExperiment() {
    const chosen = experiment();
    const runs = chosen.runs.length ? chosen.runs : [{ name: 'base', places: [0] }];
    fill($('run'), runs.map((run, i) => [i, run.name]));
    fill($('task'), [['', 'all'], ...chosen.tasks.map((task, i) => [i, `${task.name} (${task.kind})`])]);
    fillRun();
  }

  function fillRun() {
    const chosen = experiment(), run = chosen.runs[Number($('run').value)] || { places: [0] };
    const places = run.places.map((place) => [place, chosen.places[place]]);
    fill($('before'), [[JUST_LEARNED, 'when just learned; base for General'], ...places], JUST_LEARNED);
    fill($('after'), places, run.places[run.places.length - 1]);
  }

  function change(before, after) {
    if (!before || !after || before[0] === null || after[0] === null) return 'unknown';
    if (after[0] < before[0]) return 'worse';
    if (after[0] > before[0]) return 'better';
    const alike = before[2] !== undefined && before[2] !== null
      ? before[2] === after[2] : before[1] === after[1];
    return alike ? 'same' : 'other';
  }

  // Of graded scores "right" and "wrong" would say too much.
  function words(kind, before, after) {
    const graded = kind === 'worse' || kind === 'better'
      ? [before[0], after[0]].some((score) => score !== 0 && score !== 1) : false;
    if (!graded) return CHANGES[kind];
    return kind === 'worse' ? 'a lower score now' : 'a higher score now';
  }

  const percent = (score) => (score === null ? 'no score' : `score ${Math.round(100 * score)} %`);

  function* found() {
    const chosen = experiment(), run = Number($('run').value), only = $('task').value;
    const what = $('what').value, sought = $('words').value.toLowerCase();
    for (const [t, task] of chosen.tasks.entries()) {
      if (only !== '' && Number(only) !== t) continue;
      const after = Number($('after').value);
      let before = $('before').value;
      // A task that was not taught up to then is compared with the base model.
      if (before === JUST_LEARNED) before = task.own[run] <= after ? task.own[run] || 0 : 0;
      const sides = [chosen.answers[t][Number(before)], chosen.answers[t][after]];
      for (const [d, asked] of task.documents.entries()) {
        const [a, b] = sides.map((side) => side && side[d]);
        if (!a && !b) continue;
        const kind = change(a, b);
        if (what && kind !== what) continue;
        const item = { asked, a, b, kind, task, places: [Number(before), after] };
        if (sought && !haystack(item).includes(sought)) continue;
        yield item;
      }
    }
  }

  function haystack({ asked, a, b }) {
    const numbers = [asked[2], asked[3], ...(asked[4] || []), a && a[1], b && b[1]];
    const texts = numbers.filter((n) => typeof n === 'number').map(text);
    return [`${asked[0]} ${asked[1]}`, ...texts].join('\n').toLowerCase();
  }

  function labelled(parent, label, content) {
    parent.append(element('h4', label), element('pre', content));
  }

  function choice(asked, number) {
    const known = asked[4] && asked[4][number];
    return known === undefined ? `choice ${number}` : `${number}: ${text(known)}`;
  }

  function answer(asked, given) {
    if (!given) return 'not asked here';
    const chosen = given[2] === undefined || given[2] === null ? '' : choice(asked, given[2]);
    return [chosen, text(given[1])].filter(Boolean).join('\n') || '(empty)';
  }

  function card(item) {
    const { asked, a, b, kind, places } = item;
    const made = element('article', undefined, kind);
    const title = element('h3', `${asked[0]} ${asked[1]}`);
    title.append(element('span', ` \u2013 ${words(kind, a, b)}`));
    made.append(title);
    if (asked[3] !== undefined) labelled(made, 'Prompt', text(asked[3]));
    if (asked[4] && asked[4].length) {
      labelled(made, 'Choices', asked[4].map((each, i) => `${i}: ${text(each)}`).join('\n'));
    }
    labelled(made, 'Reference', text(asked[2]));
    const sides = element('div', undefined, 'sides');
    for (const [given, place, when] of [[a, places[0], 'Then'], [b, places[1], 'Now']]) {
      const side = element('div');
      const score = given ? `, ${percent(given[0])}` : '';
      labelled(side, `${when} (${experiment().places[place]})${score}`, answer(asked, given));
      sides.append(side);
    }
    made.append(sides);
    return made;
  }

  function show() {
    const all = [...found()];
    const chosen = experiment(), only = $('task').value;
    const tasks = only === '' ? chosen.tasks : [chosen.tasks[Number(only)]];
    const held = tasks.reduce((sum, task) => sum + task.documents.length, 0);
    const total = tasks.reduce((sum, task) => sum + task.total, 0);
    const rest = held < total ? `, which were taken from ${total}` : '';
    $('count').textContent = `${all.length} of ${held} documents${rest}`;
    $('documents').replaceChildren(...all.slice(0, shown).map(card));
    $('more').hidden = all.length <= shown;
  }

  function again() {
    shown = PAGE;
    show();
  }

  fill($('experiment'), data.experiments.map((each, i) => [i, each.name]));
  $('experiment').parentNode.hidden = data.experiments.length < 2;
  fill($('what'), [['', 'all'], ...Object.entries(CHANGES)], 'worse');
  fillExperiment();
  $('experiment').addEventListener('change', fillExperiment);
  $('run').addEventListener('change', fillRun);
  $('words').addEventListener('input', again);
  $('tools').addEventListener('change', again);
  $('tools').addEventListener('submit', (event) => event.preventDefault());
  $('more').addEventListener('click', () => {
    shown += 4 * PAGE;
    show();
  });
  show();
}

const held = document.getElementById('data');
if (held) browse(JSON.parse(held.textContent));
