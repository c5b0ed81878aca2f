// A panel has switches and plots. A plot has views, each under a key: for every switch the number of the option, with
// dots between, or * where it does not matter. Without this script the page has the sentences and the tables.
'use strict';

const touch = window.matchMedia('(pointer: coarse)').matches;
const settings = { responsive: true, displaylogo: false, displayModeBar: touch ? false : 'hover',
                   modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']] };

function fits(key, chosen) {
  return key.split('.').every((part, i) => part === '*' || Number(part) === chosen[i]);
}

function start(panel) {
  const form = panel.querySelector('.switches');
  const switches = [...panel.querySelectorAll('select')];
  const plots = [...panel.querySelectorAll('figure')].map(figure => ({
    place: figure.querySelector('.plot'),
    said: figure.querySelector('.said'),
    ...JSON.parse(figure.querySelector('script').textContent),
  }));
  for (const plot of plots) {
    // a finger scrolls the page
    const layout = { ...plot.layout, dragmode: touch ? false : 'zoom' };
    Plotly.newPlot(plot.place, plot.data, layout, settings);
  }
  const show = () => {
    const chosen = switches.map(one => one.selectedIndex);
    const matters = switches.map(() => false);
    for (const plot of plots) {
      const key = Object.keys(plot.views).find(one => fits(one, chosen));
      if (key === undefined) continue;
      const view = plot.views[key];
      key.split('.').forEach((part, i) => { matters[i] = matters[i] || part !== '*'; });
      // without the copy, Plotly would keep and change what is shown again later
      Plotly.update(plot.place, structuredClone(view.data), structuredClone(view.layout));
      plot.said.textContent = view.said;
      plot.place.setAttribute('aria-label', view.said);
    }
    switches.forEach((one, i) => { one.disabled = !matters[i]; });
  };
  for (const one of switches) one.addEventListener('change', show);
  if (form) {
    form.hidden = false;
    form.addEventListener('submit', event => event.preventDefault());
    form.reset();  // what a browser restores is not what is drawn
  }
  show();
}

function copies(block) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Copy';
  button.addEventListener('click', () => {
    const range = document.createRange();
    range.selectNodeContents(block.querySelector('pre'));
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    // the newer interface is not there for pages that are opened from a disk
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Selected';
  });
  block.prepend(button);
}

document.documentElement.classList.add('drawn');
document.querySelectorAll('.panel').forEach(start);
document.querySelectorAll('.code').forEach(copies);
