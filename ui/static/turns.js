// Changes of the wizard's draft take turns. Each is a hidden button that is pressed when the change before it is answered, so it is made
// of the draft and the fields as that one left them. What is asked for again while it waits is made once, but for what is handed to it.
window.guanacoTurns ||= {
  waiting: [],
  asked(id, given, once) {
    if (given === null || (once && this.open && this.made === id)) return;
    if (given !== undefined || !this.waiting.some((each) => each.id === id)) this.waiting.push({ id, given });
    if (!this.open) this.next();
  },
  ended() {
    clearTimeout(this.open);
    this.open = null;
    this.next();
  },
  next() {
    const turn = this.waiting.shift();
    if (!turn) return;
    this.given = turn.given;
    this.made = turn.id;
    this.open = setTimeout(() => this.ended(), 30000);  // an answer that never comes holds nobody up for longer
    document.getElementById(turn.id).click();
  },
};
