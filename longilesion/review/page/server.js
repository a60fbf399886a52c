// Requests to the server that has sent this page, and to no other.

async function ask(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Error("The program does not answer. What was decided is kept: start it again, and open the address that it prints.");
  }
  if (answer.status === 401) throw new Error("Another run has taken over: open the address that longilesion review has printed.");
  if (!answer.ok) {
    const { detail } = await answer.json().catch(() => ({}));
    throw new Error(typeof detail === "string" ? detail : `refused (${answer.status})`);
  }
  return answer;
}

export const get = async (address) => (await ask(address)).json();

export const post = async (address, content) =>
  (await ask(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content ?? null),
  })).json();

// A part of a scan: its address in the page's memory, its first voxel, and the sizes of the part and of the scan, as x, y, z.
export async function getPart(address) {
  const answer = await ask(address);
  const numbers = answer.headers.get("Place").split(" ").map(Number);
  const [start, stop, of] = [0, 3, 6].map((first) => numbers.slice(first, first + 3).reverse());
  return {
    buffer: await answer.arrayBuffer(),
    start,
    size: stop.map((end, axis) => end - start[axis]),
    of,
  };
}
