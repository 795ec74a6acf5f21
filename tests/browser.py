"""A headless Chromium, driven by selenium, and a report that is open in it."""

import contextlib
import shutil
import tempfile
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER = shutil.which('chromedriver')
FLAGS = (
  'headless',
  'no-sandbox',
  'disable-gpu',
  'disable-quic',
  'no-first-run',
  'disable-background-networking',
  'disable-component-update',
  'disable-sync',
)


@contextlib.contextmanager
def start():
  """A browser with a profile of its own; skips the test where there is none."""
  if not (CHROMIUM and DRIVER):
    pytest.skip(f'needs Debian packages chromium and chromium-driver: found {CHROMIUM} and {DRIVER}')
  webdriver = pytest.importorskip('selenium.webdriver', reason='needs selenium of requirements/dev.txt')
  options, profile = webdriver.ChromeOptions(), tempfile.mkdtemp()
  options.binary_location = CHROMIUM
  for flag in (*FLAGS, f'user-data-dir={profile}'):
    options.add_argument(f'--{flag}')
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
  driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
  try:
    yield driver
  finally:
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


class Page:
  """A report that is open in the browser."""

  def __init__(self, driver, path):
    self.driver = driver
    self.resize(1400)
    self.scheme('light')
    driver.get_log('browser'), driver.get_log('performance')  # of the page before
    driver.get(f'file://{path}')
    self.until("return document.querySelectorAll('.js-plotly-plot .main-svg').length > 0")

  def js(self, code, *arguments):
    return self.driver.execute_script(code, *arguments)

  def until(self, code, seconds=20):
    """The first true value of `code`."""
    end = time.monotonic() + seconds
    while not (value := self.js(code)):
      assert time.monotonic() < end, f'never true: {code}'
      time.sleep(0.02)
    return value

  def find(self, css):
    return self.driver.find_element('css selector', css)

  def each(self, css, code):
    """`code` of each element n that `css` selects."""
    return self.js(f'return [...document.querySelectorAll(arguments[0])].map((n) => {code})', css)

  def texts(self, css):
    return self.each(css, 'n.textContent')

  def column(self, key):
    """Texts of the column with the sort button `key`, without the small print."""
    return self.js(
      """
      const heads = [...document.querySelectorAll('#table thead tr:last-child th')];
      const at = heads.findIndex((th) => th.querySelector('button')?.dataset.key === arguments[0]);
      return [...document.querySelectorAll('#table tbody tr')].map((row) => {
        const cell = row.children[at].cloneNode(true);
        cell.querySelectorAll('small, sup').forEach((node) => node.remove());
        return cell.textContent;
      });""",
      key,
    )

  def click(self, css):
    self.js("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", self.find(css))
    self.find(css).click()

  def sort(self, key):
    self.click(f'#table button[data-key="{key}"]')

  def set(self, css, value, event='input'):
    self.js(
      'arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event(arguments[2]))',
      self.find(css),
      value,
      event,
    )

  def traces(self, plot, kind):
    """{uid: x, y and look} of the traces of one plot whose uid begins with `kind`."""
    found = self.js(
      """
      return document.querySelectorAll(arguments[0])[0].data.filter((t) => t.uid.startsWith(arguments[1]))
        .map((t) => ({uid: t.uid, x: t.x, y: t.y, marker: t.marker, mode: t.mode}))""",
      plot,
      kind,
    )
    return {trace['uid']: trace for trace in found if trace['mode'] == 'lines' or kind == 'run-'}

  def resize(self, width, height=900):
    metrics = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': False}
    self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)

  def scheme(self, name):
    features = [{'name': 'prefers-color-scheme', 'value': name}]
    self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})

  def errors(self):
    return [entry['message'] for entry in self.driver.get_log('browser') if entry['level'] in ('SEVERE', 'WARNING')]
