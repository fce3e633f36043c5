"""Plain English texts that perplexity is measured on: the same for every model and every quantization."""

TEXTS = (
    "The harbour was quiet before dawn. Nets hung along the wall to dry, and the first boat went out under a low grey"
    " sky, its lamp small against the water. An old man sat on a crate and counted the gulls, as he did each morning."
    " He had fished here for forty years, and he still could not say which wind would bring the herring in. When the"
    " sun came up behind the lighthouse, the baker opened her door, and the smell of warm bread drifted down the lane.",
    "To make a simple soup, cut two onions and three carrots into small pieces and fry them slowly in a little oil."
    " After ten minutes add a litre of water, a spoon of salt and a handful of red lentils. Let it boil gently until"
    " the lentils are soft, which takes about twenty minutes. Taste it, add pepper and the juice of half a lemon, and"
    " serve it with bread. What is left can be kept in the refrigerator for three days, or frozen for a month.",
    "Water covers about seventy per cent of the surface of the Earth. Most of it is salt water in the oceans; only a"
    " small part is fresh, and more than half of that is frozen in glaciers. Heat from the sun lifts water into the"
    " air as vapour. High above the ground it cools, forms clouds and falls again as rain or snow. Rivers carry it back"
    " to the sea, and so the cycle goes on without an end.",
    "Dear Ms Martin, thank you for your letter of 4 March. We are sorry that the parcel arrived late and that one of"
    " the two cups was broken. A new cup will be sent to you this week at no cost, and you may keep the damaged one."
    " If there is anything else that we can do for you, please write to us or call between nine and five o'clock."
    " With kind regards, the customer service team.",
)
