// A scan in three planes (NiiVue), with the outlines of its lesions as a drawing over it.

const { Niivue, NVImage } = globalThis.niivue;

export const WINDOWS = [
  { name: "soft tissue", key: "1", range: [-160, 240] },
  { name: "lung", key: "2", range: [-1350, 150] },
  { name: "bone", key: "3", range: [-450, 1050] },
  { name: "liver", key: "4", range: [-15, 135] },
];

// The cursor's lines are to have at least so many pixels in the smallest plane, and at most so many in the axial one.
const LINE_PIXELS = [1.1, 2.2];
// The axial plane is the largest.
const THREE_PLANES = [
  { sliceType: 0, position: [0, 0, 1, 0.56] }, { sliceType: 1, position: [0, 0.56, 0.56, 0.44] }, { sliceType: 2, position: [0.56, 0.56, 0.44, 0.44] },
];

// Values of voxels in the drawing: the chosen lesion, another one, a candidate.
export const CHOSEN = 1;
export const OTHER = 2;
export const CANDIDATE = 3;
const COLOURS = { R: [0, 255, 89, 255], G: [0, 216, 200, 154], B: [0, 77, 230, 146], A: [0, 255, 255, 255], labels: ["", "chosen", "other", "candidate"] };

// Points of the server are in LPS, those of NiiVue in RAS; the same turns either into the other.
export const turned = ([x, y, z]) => [-x, -y, z];

export class View {
  constructor(side) {
    this.side = side;
    this.address = null;
    this.onMoved = () => {};
    this.filled = 0.14;
    this.niivue = new Niivue({
      logLevel: "error", backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.55], crosshairWidthUnit: "mm", crosshairGap: 10, show3Dcrosshair: false,
      isOrientationTextVisible: true, isColorbar: false, multiplanarShowRender: 0, dragAndDropEnabled: false, viewModeHotKey: "", clipPlaneHotKey: "",
      fontMinPx: 11, fontSizeScaling: 0.3, isRuler: false,
    });
    this.niivue.onLocationChange = ({ mm }) => this.onMoved([mm[0], mm[1], mm[2]]);
  }

  async start() {
    await this.niivue.attachToCanvas(document.getElementById(`canvas-${this.side}`));
    this.niivue.setRadiologicalConvention(true);
    this.setPlane("all");
    this.niivue.drawRimOpacity = 1;
    this.niivue.drawOpacity = this.filled;
  }

  // Shows a scan by its address, or by its content where that is given.
  async show(address, range, buffer) {
    const empty = document.getElementById(`empty-${this.side}`);
    empty.hidden = address !== null;
    empty.textContent = address === null ? "no scan" : "";
    if (address === this.address) return;
    const zoom = [...this.niivue.scene.pan2Dxyzmm];
    this.address = address;
    if (this.niivue.drawBitmap) this.niivue.closeDrawing();
    while (this.niivue.volumes.length) this.niivue.removeVolumeByIndex(0);
    if (address === null) return;
    this.niivue.addVolume(await NVImage.loadFromUrl({
      url: buffer ?? address, name: "scan.nii.gz", colormap: "gray", cal_min: range[0], cal_max: range[1],
    }));
    this.niivue.scene.pan2Dxyzmm = zoom;
    this.niivue.setInterpolation(false);
    this.niivue.createEmptyDrawing();
    this.niivue.setDrawColormap(COLOURS);
  }

  setWindow(range) {
    if (!this.niivue.volumes.length) return;
    [this.niivue.volumes[0].cal_min, this.niivue.volumes[0].cal_max] = range;
    this.niivue.updateGLVolume();
  }

  setPlane(plane) {
    if (plane === "all") this.niivue.setCustomLayout(THREE_PLANES);
    else this.niivue.clearCustomLayout();
    this.niivue.setSliceType({ all: 3, axial: 0, coronal: 1, sagittal: 2 }[plane]);
  }

  setOutlined(isOutlined) {
    this.niivue.drawRimOpacity = isOutlined ? 1 : -1;
    this.niivue.setDrawOpacity(isOutlined ? this.filled : 0);
  }

  // Outlines by the value of their voxels: [[value, runs], ...], later ones over earlier ones.
  label(outlines) {
    const bitmap = this.niivue.drawBitmap;
    if (!bitmap) return;
    bitmap.fill(0);
    for (const [value, runs] of outlines) {
      for (const [first, count] of runs) bitmap.fill(value, first, first + count);
    }
    this.niivue.refreshDrawing(true);
  }

  get mm() {
    if (!this.niivue.volumes.length) return null;
    return [...this.niivue.frac2mm(this.niivue.scene.crosshairPos)].slice(0, 3);
  }

  place(mm) {
    if (!this.niivue.volumes.length) return;
    const inside = this.niivue.mm2frac(mm);
    this.niivue.scene.crosshairPos = inside.map((part) => Math.min(Math.max(part, 0), 1));
    this.niivue.drawScene();
  }

  // Moves the cursor by whole voxels, as its user.
  step(x, y, z) {
    if (this.niivue.volumes.length) this.niivue.moveCrosshairInVox(x, y, z);
  }

  // Magnifies around the cursor, or shows everything.
  zoom(factor) {
    if (!this.niivue.volumes.length) return;
    const centre = this.niivue.frac2mm([0.5, 0.5, 0.5]);
    const mm = this.mm;
    const pan = [0, 1, 2].map((axis) => (factor === 1 ? 0 : centre[axis] - factor * mm[axis]));
    this.niivue.setCrosshairWidth(this.lineMm / factor);
    this.niivue.scene.pan2Dxyzmm = [...pan, factor];
    this.niivue.drawScene();
  }

  // The width of the cursor's lines where nothing is magnified: all planes share it.
  get lineMm() {
    const [low, high] = [0, 1].map((part) => this.niivue.frac2mm([part, part, part]));
    const [x, y, z] = [0, 1, 2].map((axis) => Math.abs(high[axis] - low[axis]));
    const { clientWidth: width, clientHeight: height } = this.niivue.canvas;
    const [axial, coronal] = THREE_PLANES.map(({ position }) => [position[2] * width, position[3] * height]);
    const axialScale = Math.min(axial[0] / x, axial[1] / y);
    const smallestScale = Math.min(axialScale, coronal[0] / x, coronal[1] / z);
    return Math.min(LINE_PIXELS[0] / smallestScale, LINE_PIXELS[1] / axialScale);
  }

  get value() {
    const volume = this.niivue.volumes[0];
    if (!volume) return null;
    const [x, y, z] = this.niivue.frac2vox(this.niivue.scene.crosshairPos);
    return Math.round(volume.getValue(x, y, z));
  }
}
