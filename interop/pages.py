"""The live pages in one headless Chromium.

usage: pages.py CHROMIUM DIRECTORY BALANCER DEMO [ARGUMENT OF THE DEMO...]

Leaves screenshots in DIRECTORY. Prints a line for each page and exits 0 when all was as it should
be.
"""

import pathlib
import shutil
import sys

import demo_page
import lb_page
from browser import Browser


def main():
    chromium, directory, balancer, demo, *more = sys.argv[1:]
    directory = pathlib.Path(directory)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    browser = Browser(chromium, directory)
    try:
        print(lb_page.run(browser, balancer, directory), flush=True)
        print(demo_page.run(browser, demo, directory, more), flush=True)
    finally:
        browser.process.kill()
        browser.process.wait()


main()
