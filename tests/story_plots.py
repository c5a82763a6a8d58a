"""What happens in a story of `stories.py`: nine plots of five stages, each a choice of sentence patterns."""

from __future__ import annotations

from typing import Final

PLOTS: Final[tuple[tuple[tuple[str, ...], ...], ...]] = (
    (  # lost and found
        (
            "One day, {name} could not find {her} {thing}.",
            "That day, {name} lost {her} {thing} in the {place}.",
            "But one day, the {thing} was gone.",
            "After lunch, {name} saw that {her} {thing} was missing.",
        ),
        (
            "{She} looked under the bed, but it was not there.",
            "{She} looked behind the door and in the kitchen.",
            "{She} was so sad that {she} began to cry.",
            '"Where is my {thing}?" {she} asked.',
            '"Have you seen my {thing}?" {she} asked {her} {family}.',
        ),
        (
            'Then {friend} came and said, "I will help you look for it."',
            "A {animal} heard {her_object} and wanted to help.",
            '{Her} {family} said, "Do not cry. We will find it together."',
            "{friend} took {her} hand and they walked to the {place}.",
        ),
        (
            "They looked and looked, and at last they found it under a tree.",
            "The {animal} had it in its mouth and gave it back.",
            "There it was, next to a {thing2}.",
            "At the {place}, {friend} saw something {colour} in the grass. It was the {thing}.",
        ),
        (
            "{name} was so happy that {she} danced.",
            '"Thank you!" said {name}. "You are a good friend."',
            "From that day on, {name} took good care of {her} {thing}.",
            "{name} gave everyone a big hug.",
        ),
    ),
    (  # an animal in trouble
        (
            "One day, {name} heard a small sound in the {place}.",
            "On the way to the {place}, {name} saw a little {animal}.",
            "{name} was walking to the {place} when {she} heard someone cry.",
            "Near the {place}, a {animal} was stuck in the mud.",
        ),
        (
            "It was a {animal}, and it was very cold.",
            "The {animal} was hungry and could not walk.",
            "The {animal} had hurt its leg.",
            "The poor {animal} was lost and wanted its mother.",
            '"Please help me," said the {animal}.',
        ),
        (
            '"Do not be afraid," said {name}. "I will help you."',
            "{name} picked up the {animal} and took it home.",
            "{name} ran to {her} {family} and asked for help.",
            "{She} gave the {animal} some {food} and some water.",
            "{name} put the {animal} in a warm {thing}.",
        ),
        (
            "Soon the {animal} felt much better.",
            "The next day, the {animal} could run and jump again.",
            "The {animal} ate the {food} and fell asleep.",
            "After some time, the {animal} opened its eyes and smiled.",
        ),
        (
            "The {animal} and {name} became good friends.",
            '"You are very kind," said the {animal}.',
            "Every day, the {animal} came back to play with {name}.",
            "{Her} {family} was proud of {her_object}.",
        ),
    ),
    (  # cooking together
        (
            "One day, {name} wanted to make {food} for {her} {family}.",
            "It was a special day, and {name} wanted to cook.",
            '"Can we make {food} today?" asked {name}.',
            "{name} and {friend} were hungry, so they went to the kitchen.",
        ),
        (
            "They needed milk, sugar and a big bowl.",
            "First, they went to the market to buy what they needed.",
            "{friend} washed the bowl and {name} found a spoon.",
            "{Her} {family} showed them how to do it.",
        ),
        (
            "But {friend} dropped the bowl and it broke.",
            "But the {animal} jumped on the table and ate it all.",
            "{name} put in too much salt, and it tasted bad.",
            "Oh no, the fire was too hot!",
        ),
        (
            '"It is all right," said {her} {family}. "We can try again."',
            "They cleaned the floor and started again.",
            "{name} was sad, but {she} did not give up.",
            '"I am sorry," said {friend}, and {name} smiled.',
        ),
        (
            "In the end, the {food} tasted very good.",
            "They all sat down and ate the {food} together.",
            "The whole house smelled of {food}.",
            "They shared the {food} with the {animal}, too.",
        ),
    ),
    (  # sharing
        (
            "One day, {her} {family} gave {name} a {thing}.",
            "{name} got a {thing} for {her} birthday.",
            "At the market, {name} saw a {thing} and bought it.",
            "{name} had a {thing}, and {friend} wanted to play with it.",
        ),
        (
            '"Can I play with it, too?" asked {friend}.',
            "{friend} had no {noun} and looked very sad.",
            "{friend} asked for a turn, but {name} said no.",
            '"It is mine!" said {name}.',
        ),
        (
            "{friend} went away and sat alone under a tree.",
            "Then {name} had no one to play with.",
            "{name} played alone, but it was not fun.",
            '{Her} {family} said, "It is good to share."',
        ),
        (
            "{name} thought about it and felt sorry.",
            "So {name} ran to {friend} and gave {him2} the {thing}.",
            '"I am sorry," said {name}. "Let us play together."',
            '"You can have a turn," said {name} with a smile.',
        ),
        (
            "They played with the {thing} until the sun went down.",
            '{friend} was happy and said, "Thank you!"',
            "{name} learned that sharing makes friends happy.",
            "It was more fun to play together.",
        ),
    ),
    (  # being brave
        (
            "One night, {name} heard a strange noise.",
            "{name} was afraid of the dark {place}.",
            "One evening, {name} had to walk home through the {place} alone.",
            "There was a big storm, and the light went out.",
        ),
        (
            '"Who is there?" {she} asked.',
            "{Her} heart was beating fast.",
            "{She} wanted to hide under {her} bed.",
            "{name} held {her} {thing} and took one small step.",
            "{She} saw two big eyes in the dark.",
        ),
        (
            '"I can be brave," {she} said to {her_object}self.',
            "{She} took a lamp and went to see what it was.",
            "{She} thought of what {her} {family} had told {her_object}.",
            "{She} counted to three and opened the door.",
        ),
        (
            "It was only a {animal}, looking for {food}.",
            "A little {animal} was sitting there, and it was afraid, too.",
            "It was {friend}, who had come to visit.",
            "It was just the wind in the trees.",
        ),
        (
            "{name} laughed and was not afraid any more.",
            "{She} went back to bed and slept well.",
            '{Her} {family} said, "You were very brave."',
            "After that night, {name} was never afraid of the dark.",
        ),
    ),
    (  # something in the garden
        (
            "In spring, {name} put a seed in the garden.",
            "{Her} {family} gave {name} three small seeds.",
            "{name} wanted to grow a {colour} flower.",
            "One day, {name} found a seed in an old box.",
        ),
        (
            "{She} gave it water every day.",
            "{She} waited and waited, but nothing came up.",
            "Each morning, {she} ran outside to look at it.",
            '"When will it grow?" {she} asked.',
        ),
        (
            '"You must wait," said {her} {family}.',
            "The rain came, and then the sun came, too.",
            'A {animal} wanted to eat it, but {name} said, "Please do not."',
            "{friend} helped {her_object} to pull out the weeds.",
        ),
        (
            "Then one morning, there was a little green leaf.",
            "At last, a {colour} flower opened in the sun.",
            "It grew and grew until it was taller than {name}.",
            "Soon there were flowers everywhere.",
        ),
        (
            "{name} gave the first flower to {her} {family}.",
            "All the bees came to say hello.",
            "{name} was proud of {her} garden.",
            "{name} learned that good things take time.",
        ),
    ),
    (  # a trip
        (
            "One day, {name} and {friend} made a plan to go to the {place2}.",
            '{Her} {family} said, "Let us go to the {place2} today."',
            "In summer, {name} went on a trip to the {place2}.",
            "{name} and {friend} found a map in an old book.",
        ),
        (
            "They packed {food} and a {thing}.",
            "They walked for a long time and sang songs.",
            "They went over the hill and across the river.",
            "On the way, they met a {animal} who wanted to come along.",
        ),
        (
            "But then they did not know the way.",
            "Then {friend} was tired and wanted to go home.",
            "Suddenly, it began to rain.",
            "The bridge was broken, and they could not cross.",
        ),
        (
            '"Follow me," said the {animal}. "I know the way."',
            "They sat under a tree and ate some {food}.",
            '{name} had an idea. "We can build a little boat," {she} said.',
            "They waited until the sun came out again.",
        ),
        (
            "At last, they came to the {place2}, and it was beautiful.",
            "They ran and played at the {place2} all day.",
            "When they came home, they told everyone about the trip.",
            "It was the best day of the year.",
        ),
    ),
    (  # learning something
        (
            "One day, {name} wanted to learn to swim.",
            "{name} wanted to ride a bike like {friend}.",
            "{name} could not sing, but {she} wanted to learn.",
            "{name} wanted to build a house for the {animal}.",
        ),
        (
            "At first, it was very hard.",
            "{She} tried, but {she} fell down.",
            '"I can not do it," said {name}.',
            "{She} tried again and again.",
        ),
        (
            '{friend} said, "I will show you."',
            '{Her} {family} said, "Try one more time."',
            "{name} took a deep breath and tried once more.",
            "A {animal} watched {her_object} and laughed.",
        ),
        (
            "Then, all at once, {she} could do it!",
            "Little by little, it became easy.",
            "This time, {she} did not fall.",
            '"Look at me!" {name} said.',
        ),
        (
            "Everyone clapped and was happy for {her_object}.",
            "{name} was very proud.",
            "{name} learned that you must never give up.",
            "The next day, {name} showed {friend} how to do it, too.",
        ),
    ),
    (  # a surprise
        (
            "It was {friend}'s birthday, and {name} had no gift.",
            "One day, {name} wanted to make a surprise for {friend}.",
            "{name} found a {thing} in front of the door.",
            "One morning, there was a big box on the table.",
        ),
        (
            '"What is in it?" asked {name}.',
            "{She} did not know what to do.",
            "{She} asked {her} {family} for help.",
            "{She} thought about it all morning.",
        ),
        (
            "{She} took some paper and made a {colour} {noun}.",
            "{She} opened it slowly and looked inside.",
            "Then {she} heard a sound, and something moved.",
            "{She} ran to the {place} and picked some flowers.",
        ),
        (
            "Inside, there was a little {animal}.",
            'When {friend} came, everyone said, "Surprise!"',
            "{friend} opened the box and began to smile.",
            "It was a {thing2}, just for {her_object}.",
        ),
        (
            '"This is the best gift of all," said {friend}.',
            "They ate cake and danced until night.",
            "{name} was so happy that {she} jumped up and down.",
            '"I will call you {name2}," said {name} to the {animal}.',
        ),
    ),
)
