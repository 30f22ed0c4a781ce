// A page to read: nothing runs but the switch of themes.
themeSwitch();
