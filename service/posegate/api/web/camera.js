// Camera -> frames over the WebSocket -> one event per frame.

const FRAME_WIDTH = 640;
const FRAME_MS = 33;
const QUALITY = 0.8;
const MAX_UNSENT_BYTES = 500_000;
const RATE_WINDOW_MS = 2000;
const CUT_OFF = { title: "The stream was cut off", detail: "The service closed it, or could no longer be reached." };
// Browsers do not tell a script why.
const NOT_TAKEN = {
  title: "The service took no stream",
  detail: "It serves as many as it may already, asks for an API key (which browsers cannot send with a stream), or cannot be reached.",
};

export class Camera {
  // `onResult(picture, answer, stats)`, `onSummary(summary)` and `onProblem(problem)` are told.
  constructor({ onResult, onSummary, onProblem }) {
    Object.assign(this, { onResult, onSummary, onProblem });
    this.sent = new Map();
    this.count = 0;
    this.drops = 0;
    this.times = [];
    this.over = false;
  }

  async start(options) {
    if (!navigator.mediaDevices) throw new Error("The browser gives cameras to https or localhost pages only.");
    this.media = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: FRAME_WIDTH } } });
    for (const track of this.media.getTracks()) track.addEventListener("ended", () => this.lost());
    this.video = Object.assign(document.createElement("video"), { srcObject: this.media, muted: true, playsInline: true });
    await this.video.play();
    if (this.over) return this.release(); // stopped while the browser was asking
    this.frame = document.createElement("canvas");
    this.socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/stream`);
    this.socket.addEventListener("open", () => {
      this.taken = true;
      this.socket.send(JSON.stringify({ ...options, track: true }));
      this.send();
    });
    this.socket.addEventListener("message", (message) => this.take(JSON.parse(message.data)));
    this.socket.addEventListener("close", () => this.closed());
  }

  // Nobody waits for the frames on their way: a stream that is closed makes room for the next one at once.
  stop() {
    this.release();
    this.socket?.close();
  }

  // Its last picture would be streamed for ever.
  lost() {
    this.release();
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ end: true }));
    else this.socket?.close();
    this.onProblem({ title: "The camera is gone", detail: "It was unplugged, or its permission was withdrawn. Start it again once it is back." });
  }

  release() {
    clearTimeout(this.timer);
    this.over = true;
    for (const track of this.media?.getTracks() ?? []) track.stop();
  }

  // A phone that is turned swaps the sides of its video.
  fitFrame() {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, FRAME_WIDTH / videoWidth);
    const width = Math.round(videoWidth * scale);
    const height = Math.round(videoHeight * scale);
    if (width !== this.frame.width || height !== this.frame.height) Object.assign(this.frame, { width, height });
  }

  async send() {
    const begun = performance.now();
    if (this.socket.bufferedAmount < MAX_UNSENT_BYTES) {
      this.fitFrame();
      this.frame.getContext("2d").drawImage(this.video, 0, 0, this.frame.width, this.frame.height);
      const [picture, blob] = await Promise.all([
        createImageBitmap(this.frame),
        new Promise((resolve) => { this.frame.toBlob(resolve, "image/jpeg", QUALITY); }),
      ]);
      if (this.over || this.socket.readyState !== WebSocket.OPEN) return;
      this.sent.set(this.count++, picture);
      this.socket.send(blob);
    }
    this.timer = setTimeout(() => this.send(), Math.max(0, FRAME_MS - (performance.now() - begun)));
  }

  take(event) {
    if (event.event === "summary") {
      this.finished = true;
      this.onSummary(event);
      return;
    }
    const picture = this.sent.get(event.frame);
    this.sent.delete(event.frame);
    if (event.event === "dropped") this.drops += 1;
    if (event.event === "error") {
      if (event.frame === null) { // of the stream itself, which ends with it
        this.finished = true;
        this.release();
      }
      this.onProblem(event);
    }
    if (event.event !== "result") {
      picture?.close();
      return;
    }
    const now = performance.now();
    this.times = [...this.times.filter((time) => now - time < RATE_WINDOW_MS), now];
    const fps = this.times.length > 1 ? (1000 * (this.times.length - 1)) / (now - this.times[0]) : 0;
    const people = event.people.map((person) => ({ ...person, keypoints: person.smoothed }));
    this.onResult(picture, { ...event, people }, { fps, age: event.age_ms, drops: this.drops });
  }

  closed() {
    const cutOff = !this.finished;
    this.release();
    this.sent.clear();
    if (cutOff) this.onProblem(this.taken ? CUT_OFF : NOT_TAKEN);
  }
}
