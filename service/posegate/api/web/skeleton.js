// Answer -> canvas: boxes, limbs and joints over the photo.

const LIMBS = [
  ["left_ankle", "left_knee"], ["left_knee", "left_hip"],
  ["right_ankle", "right_knee"], ["right_knee", "right_hip"],
  ["left_hip", "right_hip"], ["left_shoulder", "left_hip"], ["right_shoulder", "right_hip"],
  ["left_shoulder", "right_shoulder"], ["left_shoulder", "left_elbow"], ["left_elbow", "left_wrist"],
  ["right_shoulder", "right_elbow"], ["right_elbow", "right_wrist"],
  ["nose", "left_eye"], ["nose", "right_eye"], ["left_eye", "left_ear"], ["right_eye", "right_ear"],
  ["left_ear", "left_shoulder"], ["right_ear", "right_shoulder"],
];
// The colours of the drawn pictures: the person's left, right, and the middle.
const SIDES = { left: "#3caf50", right: "#fa6e32", middle: "#28bef0" };

export function personColor(index) {
  return `hsl(${(index * 137.5 + 90) % 360} 90% 62%)`;
}

// Keypoints at least as sure as `minimum`, by name.
export function shownJoints(person, minimum) {
  return Object.fromEntries(Object.entries(person.keypoints).filter(([, joint]) => joint[2] >= minimum));
}

export function drawScene(context, picture, answer, { scale, minimum, active }) {
  const { width, height } = context.canvas;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height); // a picture may be transparent
  context.drawImage(picture, 0, 0, width, height);
  if (!answer) return;
  // A pixel's centre is at its integer coordinate, so the canvas is shifted by half a pixel.
  context.setTransform(scale, 0, 0, scale, scale / 2, scale / 2);
  const unit = Math.max(width, height) / scale / 400;
  answer.people.forEach((person, index) => {
    const color = personColor(person.id ?? index);
    drawBox(context, person, color, unit, index === active);
    drawJoints(context, shownJoints(person, minimum), color, unit);
  });
}

// The joint nearest to a point of the picture, within `reach` picture pixels, or null.
export function jointAt(answer, x, y, { minimum, reach }) {
  let best = null;
  answer.people.forEach((person, index) => {
    for (const [name, [jointX, jointY, score]] of Object.entries(shownJoints(person, minimum))) {
      const distance = Math.hypot(jointX - x, jointY - y);
      if (distance <= (best?.distance ?? reach)) best = { index, name, score, x: jointX, y: jointY, distance };
    }
  });
  return best;
}

function drawBox(context, person, color, unit, active) {
  const [x, y, width, height] = person.box;
  context.strokeStyle = color;
  context.lineWidth = unit * (active ? 2.2 : 1.1);
  context.strokeRect(x, y, width, height);
  const text = person.score.toFixed(2);
  context.font = `600 ${unit * 8}px system-ui, "DejaVu Sans", sans-serif`;
  const labelWidth = context.measureText(text).width + unit * 5;
  context.fillStyle = color;
  context.fillRect(x - unit * 0.55, Math.max(0, y - unit * 10), labelWidth, unit * 10);
  context.fillStyle = "#10131a";
  context.fillText(text, x + unit * 2, Math.max(0, y - unit * 10) + unit * 7.8);
}

function drawJoints(context, joints, color, unit) {
  context.lineCap = "round";
  for (const [pass, width] of [["#000a", 3.2], [color, 1.8]]) {
    context.strokeStyle = pass;
    context.lineWidth = unit * width;
    for (const [from, to] of LIMBS) {
      if (!(from in joints && to in joints)) continue;
      context.beginPath();
      context.moveTo(joints[from][0], joints[from][1]);
      context.lineTo(joints[to][0], joints[to][1]);
      context.stroke();
    }
  }
  for (const [name, [x, y]] of Object.entries(joints)) {
    context.beginPath();
    context.arc(x, y, unit * 2.2, 0, 2 * Math.PI);
    context.fillStyle = SIDES[name.split("_")[0]] ?? SIDES.middle;
    context.strokeStyle = "#000a";
    context.lineWidth = unit * 0.8;
    context.fill();
    context.stroke();
  }
}
