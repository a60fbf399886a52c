// The dialogs: which lesion one has merged with, and the end of a review.

import { get, post } from "./server.js";
import { byId } from "./review.js";

export async function askMergedInto(review) {
  const others = review.lesions.filter(
    (each) => each.id !== review.chosen && !each.is_candidate && each.followup.scan === review.lesion.followup.scan,
  );
  byId("merge-into").replaceChildren(...others.map((each) => new Option(`lesion ${each.id}`, each.id)));
  const dialog = byId("merge");
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => { dialog.addEventListener("close", resolve, { once: true }); });
  return dialog.returnValue === "merge" && others.length ? Number(byId("merge-into").value) : null;
}

export async function showFinish(review) {
  const { undecided, is_read_only: isReadOnly } = review.known;
  byId("write").disabled = isReadOnly;
  byId("finishing-text").textContent = undecided
    ? `${undecided} lesion${undecided > 1 ? "s are" : " is"} not reviewed yet; the record will say so.`
    : "Every lesion is reviewed.";
  await review.attempt(async () => {
    const names = await get("api/results");
    byId("results").replaceChildren(...names.map((name) => {
      const item = document.createElement("li");
      item.append(Object.assign(document.createElement("a"), { href: `api/results/${name}`, download: name, textContent: name }));
      return item;
    }));
  });
  byId("finishing").showModal();
}

export async function write(review) {
  byId("write").disabled = true;
  byId("finishing-text").textContent = "Outlining in full, and writing …";
  try {
    await review.queue;
    await review.update(await post("api/finish"));
    byId("finishing-text").textContent = "Written to the output folder. Decisions made from now on are kept as well, and can be written again.";
    review.say("The result is written.");
  } catch (error) {
    byId("finishing-text").textContent = error.message;
  }
  byId("write").disabled = review.known.is_read_only;
}
